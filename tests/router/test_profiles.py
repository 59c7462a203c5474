"""router/profiles.py: price files in, expected costs out, nothing guessed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.errors import ConfigError
from router.needs import count_tokens
from router.profiles import expected_costs_usd, profiles_from_json, profiles_to_json, read_profiles
from router.types import Endpoint, ModelProfile


def test_yaml_and_json_in_both_dialects(tmp_path: Path) -> None:
    own = {"m": {"usd_per_mtok_in": 2, "usd_per_mtok_out": 8, "mean_output_tokens": 100}}
    theirs = {"m": {"input_price": 2, "output_price": 8, "mean_output_tokens": 100}}
    (tmp_path / "own.yaml").write_text("m: {usd_per_mtok_in: 2, usd_per_mtok_out: 8, mean_output_tokens: 100}\n")
    (tmp_path / "own.json").write_text(json.dumps(own))
    (tmp_path / "theirs.json").write_text(json.dumps(theirs))
    expected = {"m": ModelProfile("m", 100.0, (Endpoint("default", 2.0, 8.0),))}
    assert [read_profiles(path) for path in sorted(tmp_path.iterdir())] == [expected] * 3


def test_costs_by_hand() -> None:
    cheap, dear = Endpoint("a", 1.0, 2.0), Endpoint("b", 5.0, 1.0)
    profiles = {
        "two": ModelProfile("two", 10.0, (dear, cheap)),
        "free": ModelProfile("free", 10.0, (Endpoint("a", 0.0, 0.0),)),
        "logged": ModelProfile("logged", mean_cost_usd=0.25),
        "nothing": ModelProfile("nothing"),
    }
    # 9 characters are 3 tokens: 3 * 1 + 10 * 2 = 23 and 3 * 5 + 10 * 1 = 25 USD per million tokens.
    costs = expected_costs_usd(profiles, ("two", "free", "logged", "nothing", "unheard of"), "123456789")
    np.testing.assert_allclose(costs, [23e-6, 0.0, 0.25, np.nan, np.nan])


def test_relative_sizes_by_hand() -> None:
    cheap, dear = Endpoint("a", 1.0, 2.0), Endpoint("b", 5.0, 1.0)
    profiles = {
        "two": ModelProfile("two", 10.0, (dear, cheap)),
        "logged": ModelProfile("logged", mean_cost_usd=0.25),
        "nothing": ModelProfile("nothing"),
    }
    names = ("two", "logged", "nothing", "unheard of")
    # A longer answer makes the other endpoint the cheapest: 3 * 5 + 20 * 1 = 35 against 3 * 1 + 20 * 2 = 43.
    longer = expected_costs_usd(profiles, names, "123456789", 2.0)
    np.testing.assert_allclose(longer, [35e-6, 0.5, np.nan, np.nan])
    shorter = expected_costs_usd(profiles, names, "123456789", 0.5)
    np.testing.assert_allclose(shorter, [13e-6, 0.125, np.nan, np.nan])
    usual = expected_costs_usd(profiles, names, "123456789", 1.0)
    np.testing.assert_array_equal(usual, expected_costs_usd(profiles, names, "123456789"))


def test_a_token_that_was_begun_counts() -> None:
    assert [count_tokens(text) for text in ("", "1", "1234", "12345")] == [0, 1, 1, 2]


def test_round_trip() -> None:
    profiles = {
        "a": ModelProfile("a", 12.5, (Endpoint("x", 0.1, 0.2), Endpoint("y", 3.0, 4.0)), 0.01),
        "b": ModelProfile("b"),
    }
    assert profiles_from_json(json.loads(json.dumps(profiles_to_json(profiles))), "here") == profiles


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ([], "mapping"),
        ({}, "mapping"),
        ({"m": 3}, "m: expected"),
        ({"m": {}}, "m: no price"),
        ({"m": {"usd_per_mtok_in": 1}}, "usd_per_mtok_out is missing"),
        ({"m": {"usd_per_mtok_in": -1, "usd_per_mtok_out": 1}}, "at least 0, got -1"),
        ({"m": {"usd_per_mtok_in": True, "usd_per_mtok_out": 1}}, "got True"),
        ({"m": {"usd_per_mtok_in": "1", "usd_per_mtok_out": 1}}, "got '1'"),
        ({"m": {"usd_per_mtok_in": float("nan"), "usd_per_mtok_out": 1}}, "got nan"),
        ({"m": {"usd_per_mtok_in": 1, "usd_per_mtok_out": 1, "mean_output_tokens": -3}}, "mean_output_tokens"),
        ({"m": {"endpoints": {"usd_per_mtok_in": 1}}}, "endpoints: expected a list"),
    ],
)
def test_wrong_profiles_are_refused_by_name(raw: Any, wanted: str) -> None:
    with pytest.raises(ConfigError, match=f"prices.yaml.*{wanted}"):
        profiles_from_json(raw, "prices.yaml")


@pytest.mark.parametrize(
    ("name", "content"), [("a.yaml", b"a: [1"), ("a.json", b"{"), ("a.yaml", b"\xff\xfe\x00"), ("b.yaml", None)]
)
def test_unreadable_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=name):
        read_profiles(tmp_path / name)
