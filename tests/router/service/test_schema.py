"""The wire schema: strict types, limits, and errors that name the field but never repeat the value."""

from typing import Any

import pytest
from pydantic import ValidationError

from router.service.schema import (
    ANSWER_EXAMPLE,
    MAX_DETAILS,
    MAX_MESSAGES,
    MAX_NAMES,
    MAX_PROMPT_CHARS,
    REQUEST_EXAMPLES,
    RouteAnswer,
    RouteRequest,
    error_details,
)
from router.types import STRATEGIES, Policy


def details(content: Any) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as caught:
        RouteRequest.model_validate(content)
    return error_details(caught.value.errors(include_url=False, include_context=False, include_input=False))


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize("example", REQUEST_EXAMPLES.values(), ids=REQUEST_EXAMPLES)
def test_request_examples_are_valid(example: dict[str, Any]) -> None:
    RouteRequest.model_validate(example["value"])


def test_the_answer_example_is_valid() -> None:
    RouteAnswer.model_validate(ANSWER_EXAMPLE)


def test_a_policy_arrives_whole() -> None:
    asked = RouteRequest.model_validate(
        {
            "prompt": "x",
            "policy": {
                "candidates": ["a", "b"],
                "exclude": ["b"],
                "max_cost_usd": 1,
                "willingness_to_pay_usd": 0.5,
                "route_anyway": True,
                "fallback": "c",
            },
        }
    )
    assert asked.policy is not None
    assert asked.policy.to_policy() == Policy(
        candidates=("a", "b"),
        exclude=("b",),
        max_cost_usd=1.0,
        willingness_to_pay_usd=0.5,
        route_anyway=True,
        fallback="c",
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_arrives_and_excludes_an_amount(strategy: str) -> None:
    asked = RouteRequest.model_validate({"prompt": "x", "policy": {"strategy": strategy}})
    assert asked.policy is not None
    assert asked.policy.to_policy() == Policy(strategy=strategy)
    with pytest.raises(ValidationError):
        RouteRequest.model_validate({"prompt": "x", "policy": {"strategy": strategy, "willingness_to_pay_usd": 1.0}})


def test_an_empty_policy_is_the_default_policy() -> None:
    asked = RouteRequest.model_validate({"prompt": "x", "policy": {}})
    assert asked.policy is not None
    assert asked.policy.to_policy() == Policy()


def test_message_fields_that_are_not_read_are_tolerated() -> None:
    asked = RouteRequest.model_validate(
        {
            "messages": [
                {"role": "system", "content": "be brief", "name": "s"},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
                {"role": "tool", "content": "42", "tool_call_id": "1"},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what is this?", "cache_control": {"type": "ephemeral"}},
                        {"type": "image_url", "image_url": {"url": "data:"}},
                    ],
                },
            ]
        }
    )
    assert asked.n_chars == len("be brief42what is this?")


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({}, ""),
        ({"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, ""),
        ({"prompt": None}, ""),
        ([], ""),
        ("x", ""),
        (None, ""),
        (1, ""),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": ["x"]}, "prompt"),
        ({"prompt": "a\x00b"}, "prompt"),
        ({"prompt": "x" * (MAX_PROMPT_CHARS + 1)}, "prompt"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": ["x"]}, "messages.0"),
        ({"messages": [{"content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": 1, "content": "x"}]}, "messages.0.role"),
        (user(5), "messages.0.content"),
        (user("a\x00"), "messages.0.content"),
        (user(["x"]), "messages.0.content"),
        (user([{"type": 1}]), "messages.0.content"),
        (user([{"type": "text", "text": "\x00"}]), "messages.0.content"),
        (user([{"type": "text", "text": "x" * MAX_PROMPT_CHARS}, {"text": "x"}]), ""),
        ({"messages": [{"role": "user", "content": "x"}] * (MAX_MESSAGES + 1)}, "messages"),
        ({"prompt": "x", "user": "me"}, ""),
        ({"prompt": "x", "session_id": "1"}, ""),
        ({"prompt": "x", "tools": []}, ""),
        ({"prompt": "x", "explain": 1}, "explain"),
        ({"prompt": "x", "explain": "true"}, "explain"),
        ({"prompt": "x", "latency_budget_ms": True}, "latency_budget_ms"),
        ({"prompt": "x", "latency_budget_ms": "5"}, "latency_budget_ms"),
        ({"prompt": "x", "latency_budget_ms": 0.5}, "latency_budget_ms"),
        ({"prompt": "x", "latency_budget_ms": 10_001}, "latency_budget_ms"),
        ({"prompt": "x", "latency_budget_ms": 10**31}, "latency_budget_ms"),
        ({"prompt": "x", "latency_budget_ms": float("nan")}, "latency_budget_ms"),
        ({"prompt": "x", "policy": "cheap"}, "policy"),
        ({"prompt": "x", "policy": {"candidates": "a"}}, "policy.candidates"),
        ({"prompt": "x", "policy": {"candidates": [1]}}, "policy.candidates.0"),
        ({"prompt": "x", "policy": {"candidates": [""]}}, "policy.candidates.0"),
        ({"prompt": "x", "policy": {"exclude": ["a" * 257]}}, "policy.exclude.0"),
        ({"prompt": "x", "policy": {"exclude": ["a"] * (MAX_NAMES + 1)}}, "policy.exclude"),
        ({"prompt": "x", "policy": {"exclude": ["a\x00"]}}, "policy.exclude.0"),
        ({"prompt": "x", "policy": {"exclude": None}}, "policy.exclude"),
        ({"prompt": "x", "policy": {"max_cost_usd": -1}}, "policy.max_cost_usd"),
        ({"prompt": "x", "policy": {"max_cost_usd": False}}, "policy.max_cost_usd"),
        ({"prompt": "x", "policy": {"willingness_to_pay_usd": float("inf")}}, "policy.willingness_to_pay_usd"),
        ({"prompt": "x", "policy": {"willingness_to_pay_usd": "1"}}, "policy.willingness_to_pay_usd"),
        ({"prompt": "x", "policy": {"route_anyway": 1}}, "policy.route_anyway"),
        ({"prompt": "x", "policy": {"fallback": ""}}, "policy.fallback"),
        ({"prompt": "x", "policy": {"min_gain": 1}}, "policy"),
    ],
)
def test_what_is_wrong_is_named_by_its_field(content: Any, field: str) -> None:
    assert field in [name for name, _ in details(content)]


def test_errors_never_repeat_names_or_values() -> None:
    for content in (
        {"prompt": 5, "canary": "canary"},
        {"prompt": "x", "policy": {"canary": 1, "max_cost_usd": "canary"}},
        user({"canary": "canary"}),
        user([{"text": ["canary"]}]),
        {"prompt": "x", "explain": "canary"},
    ):
        assert "canary" not in repr(details(content))


def test_an_unknown_field_is_answered_with_the_known_ones() -> None:
    assert [field for field, _ in details({"prompt": "x", "policy": {"prompt": "x"}})] == ["policy"]
    assert details({"prompt": "x", "model": "auto"}) == [
        ("", "has an unknown field; known: prompt, messages, latency_budget_ms, policy, cache, explain")
    ]


def test_the_number_of_details_is_bounded() -> None:
    content = {"messages": [{"role": "user", "content": [{"type": i, "text": i}]} for i in range(500)]}
    assert 1 <= len(details(content)) <= MAX_DETAILS
