"""benchmarks/stability.py: what counts as kept, when a session stays, and values whose tasks count alike."""

from dataclasses import replace

import numpy as np
import pytest
from edits import EDITS
from stability import SESSION_MARGIN, Asked, Part, in_session, summary, values

from router.artifact import RouterArtifact
from router.router import Router
from router.types import Policy
from training.comparisons import PreferenceLog
from training.evidence import tabulate


@pytest.fixture
def part(scores_log: PreferenceLog) -> Part:
    truth = np.array([[1.0, 0.0, 0.0]] * 3 + [[0.0, 0.0, 1.0]])
    groups, strata = np.arange(4), np.array([0, 0, 0, 1])
    return Part(scores_log, tabulate(scores_log), ("p", "q", "r"), ("s",), truth, groups, strata)


def test_prompts_without_an_edit_are_not_counted(part: Part) -> None:
    names = ("whichmodel", "constant")
    before = {name: np.array([0, 1, 2, 2]) for name in names}
    after = {name: {edit: np.array([0, -1, 1]) for edit in EDITS} for name in names}
    found = summary([part, part], [Asked(before, after)] * 2)
    kept = found["kept"]["whichmodel"]["typo"]
    assert (kept["hits"], kept["n"]) == (2, 4)
    assert found["commonest_share"]["whichmodel"] == 0.5
    assert found["n_prompts"] == 6


def test_tasks_count_alike(part: Part) -> None:
    asked = Asked({"whichmodel": np.array([0, 0, 0, 0]), "constant": np.array([2, 2, 2, 2])}, {})
    found = values([part], [asked])
    assert found["whichmodel"]["mean"] == pytest.approx(0.5)
    assert found["constant"]["mean"] == pytest.approx(0.5)
    assert found["constant"]["ours_minus_this"]["mean"] == pytest.approx(0.0)


@pytest.mark.parametrize("beyond", [-0.01, 0.01])
def test_a_session_stays_within_the_margin(artifact: RouterArtifact, beyond: float) -> None:
    router = Router(artifact, cache_entries=0)
    try:
        decision = router.answer_of("static", "Fix the parser in my regex script", Policy(route_anyway=True))
    finally:
        router.close()
    best, second, *rest = decision.estimates
    close = second._replace(utility=best.utility - SESSION_MARGIN - beyond)
    nearly = replace(decision, estimates=(best, close, *rest))
    assert in_session(nearly, best.model) == best.model
    assert in_session(nearly, second.model) == (best.model if beyond > 0 else second.model)
