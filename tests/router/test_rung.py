"""router/rung.py: what is worked out once for many prompts is what each alone would get, and stays bounded."""

from dataclasses import replace

import pytest

from router.artifact import RouterArtifact
from router.catalogue import Catalogue
from router.constraints import MAX_KEPT_NAMES
from router.deadline import Deadline
from router.errors import PolicyError
from router.rung import MAX_KEPT_ASKS, Question, Rung
from router.types import Decision, Endpoint, ModelProfile, Needs, Policy

FOOD = "Which herbs go with salmon and rice?"


def question(policy: Policy, text: str = FOOD, needs: Needs | None = None) -> Question:
    return Question(text, text, policy, Deadline(0.0, float("inf")), True, needs or Needs(len(text) // 4))


@pytest.fixture
def rung(artifact: RouterArtifact) -> Rung:
    """One whose models nothing is known of, so that no length means anything."""
    return Rung(artifact, artifact.best, Catalogue(artifact.models, {}), degraded=False)


def gist(decision: Decision) -> dict[str, object]:
    out = decision.to_json(explain=True)
    return {name: value for name, value in out.items() if name not in ("elapsed_ms", "budget_met", "decision_id")}


def test_what_is_kept_of_a_policy_answers_as_if_it_were_new(artifact: RouterArtifact, rung: Rung) -> None:
    first, *_ = artifact.models
    policies = (Policy(), Policy(exclude=(first,)), Policy(candidates=(first, "nobody")), Policy(min_gain=1.0))
    needs = (Needs(1), Needs(9_000), Needs(1, ("vision",)), Needs(1, (), True))
    asked = [question(one, needs=need) for one in policies for need in needs]
    for one in (*asked, *reversed(asked)):
        alone = Rung(artifact, artifact.best, rung.catalogue, degraded=False)
        encoding = rung.encode_all([one])[0]
        assert gist(rung.decide(one, encoding)) == gist(alone.decide(one, encoding))


def test_other_profiles_are_another_question(artifact: RouterArtifact, rung: Rung) -> None:
    before = rung.decide(question(Policy()), None)
    assert before.estimates[0].cost_usd is None and before.gateway_model is None
    known = ModelProfile(before.model, endpoints=(Endpoint("here", 1.0, 1.0),), gateway_model="there")
    rung.catalogue = Catalogue(artifact.models, {before.model: replace(known, endpoints=())})
    assert rung.decide(question(Policy()), None).gateway_model == "there"
    rung.catalogue = Catalogue(artifact.models, {before.model: known})
    one, more = (rung.decide(question(Policy(), needs=Needs(n)), None) for n in (1_000, 2_000))
    costs = [{each.model: each.cost_usd for each in decision.estimates}[known.name] for decision in (one, more)]
    assert costs[0] is not None and costs[1] is not None and costs[1] - costs[0] == pytest.approx(1e-3)


def test_what_is_kept_is_bounded(artifact: RouterArtifact, rung: Rung) -> None:
    expected = gist(rung.decide(question(Policy()), None))
    for number in range(2 * MAX_KEPT_ASKS + 1):
        rung.decide(question(Policy(exclude=(f"model-{number}",))), None)
        assert len(rung._asks) <= MAX_KEPT_ASKS
    assert gist(rung.decide(question(Policy()), None)) == expected
    kept = len(rung._asks)
    rung.decide(question(Policy(exclude=tuple(f"model-{n}" for n in range(MAX_KEPT_NAMES + 1)))), None)
    assert len(rung._asks) == kept


def test_an_error_is_none_the_second_time_either(rung: Rung) -> None:
    nobody = question(Policy(candidates=("nobody",)))
    said = []
    for _ in range(2):
        with pytest.raises(PolicyError) as caught:
            rung.decide(nobody, None)
        said.append(str(caught.value))
    assert said[0] == said[1] and not rung._asks
