"""The wire schema: strict types, limits, and errors that name the field but never repeat the value."""

from dataclasses import fields
from typing import Any

import pytest
from pydantic import ValidationError

from router.needs import needs_of
from router.service.answers import ANSWER_EXAMPLE, RouteAnswer
from router.service.schema import (
    MAX_DETAILS,
    MAX_MESSAGES,
    MAX_NAMES,
    MAX_PROMPT_CHARS,
    MAX_TOOLS,
    REQUEST_EXAMPLES,
    RequestPolicy,
    RouteRequest,
    error_details,
)
from router.types import STRATEGIES, Needs, Policy


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
                "require": ["vision"],
                "role": "planner",
                "local_only": True,
                "region": ["eu", "ch"],
                "max_cost_usd": 1,
                "max_latency_ms": 2000,
                "min_uptime": 0.99,
                "willingness_to_pay_usd": 0.5,
                "willingness_to_wait_ms": 1e4,
                "min_gain": 0.01,
                "switch_margin": 0.2,
                "explore_share": 0.05,
                "route_anyway": True,
                "fallback": "c",
            },
        }
    )
    assert isinstance(asked.policy, RequestPolicy)
    policy = asked.policy.to_policy()
    assert policy == Policy(
        candidates=("a", "b"),
        exclude=("b",),
        require=("vision",),
        role="planner",
        local_only=True,
        region=("eu", "ch"),
        max_cost_usd=1.0,
        max_latency_ms=2000.0,
        min_uptime=0.99,
        willingness_to_pay_usd=0.5,
        willingness_to_wait_ms=1e4,
        min_gain=0.01,
        switch_margin=0.2,
        explore_share=0.05,
        route_anyway=True,
        fallback="c",
    )
    usual = Policy()
    told = {one.name for one in fields(Policy) if getattr(policy, one.name) != getattr(usual, one.name)}
    assert {*told, "strategy"} == {one.name for one in fields(Policy)} - {"name"} == set(RequestPolicy.model_fields)


@pytest.mark.parametrize(("region", "kept"), [("eu", ("eu",)), (["eu"], ("eu",)), (None, None)])
def test_a_region_is_one_or_some(region: Any, kept: Any) -> None:
    assert RequestPolicy.model_validate({"region": region}).to_policy().region == kept


def test_a_policy_may_be_a_name() -> None:
    assert RouteRequest.model_validate({"prompt": "x", "policy": "legal"}).policy == "legal"


CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "42"}
ASK = {"role": "user", "content": "how many?"}
SCREENSHOT = {
    "role": "user",
    "content": [{"type": "tool_result", "content": [{"type": "image"}, {"type": "text", "text": "x" * 400}]}],
}


@pytest.mark.parametrize(
    ("more", "needs"),
    [
        ({"prompt": "x" * 9}, Needs(3)),
        ({"prompt": "x", "tools": []}, Needs(1)),
        ({"prompt": "x", "tools": [{"type": "function"}]}, Needs(7, ("tools",))),
        ({"prompt": "x", "tools": [None, 5, "any"]}, Needs(5, ("tools",))),
        ({"prompt": "x", "response_format": {"type": "json_object"}}, Needs(1, ("json",))),
        (
            {"prompt": "x", "response_format": {"type": "json_schema", "json_schema": {"name": "a"}}, "tools": [1]},
            Needs(2, ("json", "tools")),
        ),
        ({"prompt": "x", "response_format": {"type": "text"}}, Needs(1)),
        ({"prompt": "x", "hints": {"context_tokens": 500, "has_images": True}}, Needs(500, ("vision",))),
        ({"prompt": "x" * 40, "hints": {"context_tokens": 5, "has_tools": True}}, Needs(10, ("tools",))),
        ({"messages": [ASK, CALL]}, Needs(3, ("tools",), True)),
        ({"messages": [ASK, CALL, RESULT]}, Needs(4, ("tools",), True)),
        ({"messages": [ASK, CALL, RESULT, ASK]}, Needs(6, ("tools",), False)),
        ({"messages": [ASK, {**CALL, "tool_calls": []}]}, Needs(3)),
        (
            {"messages": [ASK, {"role": "assistant", "content": "", "function_call": {"name": "f"}}]},
            Needs(3, ("tools",), True),
        ),
        (
            {"messages": [ASK, {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f"}]}]},
            Needs(3, ("tools",), True),
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, Needs(0, ("vision",))),
        ({"messages": [ASK, SCREENSHOT]}, Needs(103, ("tools", "vision"), True)),
        (
            {"messages": [ASK, {"role": "assistant", "tool_calls": [{"function": {"arguments": "x" * 400}}]}]},
            Needs(103, ("tools",), True),
        ),
    ],
)
def test_what_a_request_implies_is_read(more: dict[str, Any], needs: Needs) -> None:
    asked = RouteRequest.model_validate(more)
    assert (asked.to_needs(more) or needs_of(asked.to_prompt())) == needs


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_arrives_and_excludes_an_amount(strategy: str) -> None:
    asked = RouteRequest.model_validate({"prompt": "x", "policy": {"strategy": strategy}})
    assert isinstance(asked.policy, RequestPolicy)
    assert asked.policy.to_policy() == Policy(strategy=strategy)
    with pytest.raises(ValidationError):
        RouteRequest.model_validate({"prompt": "x", "policy": {"strategy": strategy, "willingness_to_pay_usd": 1.0}})


def test_an_empty_policy_is_the_default_policy() -> None:
    asked = RouteRequest.model_validate({"prompt": "x", "policy": {}})
    assert isinstance(asked.policy, RequestPolicy)
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
        ({"prompt": "x", "temperature": 1}, ""),
        ({"prompt": "x", "session": "1"}, ""),
        ({"prompt": "x", "session_id": ""}, "session_id"),
        ({"prompt": "x", "session_id": "s" * 257}, "session_id"),
        ({"prompt": "x", "session_id": "a\x00b"}, "session_id"),
        ({"prompt": "x", "session_id": 1}, "session_id"),
        ({"prompt": "x", "application": ""}, "application"),
        ({"prompt": "x", "role": ["planner"]}, "role"),
        ({"prompt": "x", "task": "t" * 257}, "task"),
        ({"prompt": "x", "tools": {}}, "tools"),
        ({"prompt": "x", "tools": [1] * (MAX_TOOLS + 1)}, "tools"),
        ({"prompt": "x", "response_format": "json"}, "response_format"),
        ({"prompt": "x", "response_format": {}}, "response_format.type"),
        ({"prompt": "x", "response_format": {"type": 1}}, "response_format.type"),
        ({"prompt": "x", "hints": {"context_tokens": -1}}, "hints.context_tokens"),
        ({"prompt": "x", "hints": {"context_tokens": 100_000_001}}, "hints.context_tokens"),
        ({"prompt": "x", "hints": {"context_tokens": 1.0}}, "hints.context_tokens"),
        ({"prompt": "x", "hints": {"context_tokens": True}}, "hints.context_tokens"),
        ({"prompt": "x", "hints": {"has_images": 1}}, "hints.has_images"),
        ({"prompt": "x", "hints": {"tokens": 1}}, "hints"),
        ({"prompt": "x", "hints": []}, "hints"),
        ({"prompt": "x", "explain": 1}, "explain"),
        ({"prompt": "x", "explain": "true"}, "explain"),
        ({"prompt": "x", "latency_budget_ms": True}, "latency_budget_ms"),
        ({"prompt": "x", "latency_budget_ms": "5"}, "latency_budget_ms"),
        ({"prompt": "x", "latency_budget_ms": 0.5}, "latency_budget_ms"),
        ({"prompt": "x", "latency_budget_ms": 10_001}, "latency_budget_ms"),
        ({"prompt": "x", "latency_budget_ms": 10**31}, "latency_budget_ms"),
        ({"prompt": "x", "latency_budget_ms": float("nan")}, "latency_budget_ms"),
        ({"prompt": "x", "policy": ""}, "policy"),
        ({"prompt": "x", "policy": "p" * 257}, "policy"),
        ({"prompt": "x", "policy": 5}, "policy"),
        ({"prompt": "x", "policy": ["cheap"]}, "policy"),
        ({"prompt": "x", "policy": {"name": "cheap"}}, "policy"),
        ({"prompt": "x", "policy": {"require": "vision"}}, "policy.require"),
        ({"prompt": "x", "policy": {"role": ""}}, "policy.role"),
        ({"prompt": "x", "policy": {"local_only": 1}}, "policy.local_only"),
        ({"prompt": "x", "policy": {"region": []}}, "policy.region"),
        ({"prompt": "x", "policy": {"region": 5}}, "policy.region"),
        ({"prompt": "x", "policy": {"region": [5]}}, "policy.region.0"),
        ({"prompt": "x", "policy": {"max_latency_ms": -1}}, "policy.max_latency_ms"),
        ({"prompt": "x", "policy": {"max_latency_ms": 1e10}}, "policy.max_latency_ms"),
        ({"prompt": "x", "policy": {"min_uptime": 1.1}}, "policy.min_uptime"),
        ({"prompt": "x", "policy": {"min_gain": "0"}}, "policy.min_gain"),
        ({"prompt": "x", "policy": {"min_gain": None}}, "policy.min_gain"),
        ({"prompt": "x", "policy": {"switch_margin": 2}}, "policy.switch_margin"),
        ({"prompt": "x", "policy": {"explore_share": -0.1}}, "policy.explore_share"),
        ({"prompt": "x", "policy": {"strategy": "best"}}, "policy.strategy"),
        ({"prompt": "x", "policy": {"strategy": "fast", "willingness_to_wait_ms": 1}}, "policy"),
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
        ({"prompt": "x", "policy": {"gain": 1}}, "policy"),
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
        (
            "",
            "has an unknown field; known: prompt, messages, latency_budget_ms, policy, session_id, application, role, "
            "task, tools, response_format, hints, user, feedback, cache, explain",
        )
    ]


def test_the_number_of_details_is_bounded() -> None:
    content = {"messages": [{"role": "user", "content": [{"type": i, "text": i}]} for i in range(500)]}
    assert 1 <= len(details(content)) <= MAX_DETAILS
