"""router/misnamed.py: every name that is no model is told once, with the policy and the field that has it."""

from hypothesis import given
from hypothesis import strategies as st

from router.misnamed import misnamed
from router.types import Policy

MODELS = ("coder-medium", "chef-large", "guide-small")
NAMES = st.sampled_from([*MODELS, "chef-larg", "quite another"])


def test_every_field_is_looked_at() -> None:
    policy = Policy(candidates=("chef-larg", *MODELS), exclude=("zzz", "zzz"), fallback="guide", name="home")
    assert misnamed([policy, Policy(fallback="zzz")], MODELS) == [
        "policy home: candidates names 'chef-larg', which is no model of the artifact, did you mean chef-large?",
        "policy home: exclude names 'zzz', which is no model of the artifact",
        "policy home: fallback names 'guide', which is no model of the artifact, did you mean guide-small?",
        "fallback names 'zzz', which is no model of the artifact",
    ]


@given(st.lists(NAMES, min_size=1), st.lists(NAMES), st.none() | NAMES)
def test_names_of_models_are_passed_over(candidates: list[str], exclude: list[str], fallback: str | None) -> None:
    policy = Policy(candidates=tuple(candidates), exclude=tuple(exclude), fallback=fallback)
    unknown = [{*candidates} - {*MODELS}, {*exclude} - {*MODELS}, {fallback} - {None, *MODELS}]
    assert len(misnamed([policy], MODELS)) == sum(map(len, unknown))
