"""router/profiles.py and router/marked.py: profile files in, errors with their line, nothing guessed."""

import contextlib
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from router.catalogue import Catalogue
from router.errors import ConfigError
from router.needs import count_tokens
from router.profiles import (
    GivenProfiles,
    expected_costs_usd,
    merged,
    profiles_from_json,
    profiles_to_json,
    read_profiles,
)
from router.types import Endpoint, ModelProfile

DOCS = Path(__file__).parents[2] / "docs"


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


FULL = {
    "m": ModelProfile(
        "m",
        12.5,
        (
            Endpoint("x", 0.1, 0.2, 100.0, 200.0, 50.0, 0.99, "remote", "eu"),
            Endpoint("y", None, None, None, 9.0, None, None, "local", None),
        ),
        0.01,
        "acme/m",
        ("json", "vision"),
        ("text", "image"),
        32_000,
        ("planner", "reviewer"),
        "remote",
        "us",
    ),
    "nothing it can do": ModelProfile("nothing it can do", capabilities=(), modalities=()),
    "unknown": ModelProfile("unknown"),
}


def test_every_field_comes_back() -> None:
    again = profiles_from_json(json.loads(json.dumps(profiles_to_json(FULL))), "here")
    assert again == FULL
    for one in fields(ModelProfile):  # a field that is added must be written, too
        assert getattr(FULL["m"], one.name) not in (None, (), one.default), one.name
    for one in fields(Endpoint):
        assert getattr(FULL["m"].endpoints[0], one.name) is not None, one.name


def test_artifacts_of_before_are_read() -> None:
    old = {
        "a": {
            "mean_output_tokens": 10.0,
            "mean_cost_usd": None,
            # Names did not have to differ.
            "endpoints": [
                {"name": "default", "usd_per_mtok_in": 1.0, "usd_per_mtok_out": 2.0},
                {"name": "default", "usd_per_mtok_in": 2.0, "usd_per_mtok_out": 1.0},
            ],
        },
        "b": {"mean_output_tokens": 256.0, "mean_cost_usd": 0.5, "endpoints": []},
    }
    assert profiles_from_json(old, "profiles.json") == {
        "a": ModelProfile("a", 10.0, (Endpoint("default", 1.0, 2.0), Endpoint("default", 2.0, 1.0))),
        "b": ModelProfile("b", mean_cost_usd=0.5),
    }


def read(tmp_path: Path, text: str, name: str = "profiles.yaml") -> GivenProfiles:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_profiles(path)


def test_the_sample_in_the_docs_uses_every_field() -> None:
    profiles = read_profiles(DOCS / "profiles.yaml")
    small, writer, coder = (profiles[name] for name in ("small-fast", "writer-large", "coder-medium"))
    assert small.endpoints[0] == Endpoint("acme-eu", 0.1, 0.4, 180.0, 600.0, 140.0, 0.9995, "remote", "eu")
    assert small.endpoints[1].latency_p95_ms is None
    assert (small.gateway_model, small.roles, small.mean_output_tokens) == (
        "acme/small-fast-v2",
        ("classifier", "drafts"),
        220.0,
    )
    assert writer.capabilities == ("files", "json", "reasoning", "tools", "vision")
    assert (writer.context_tokens, writer.locality, writer.region) == (200_000, "remote", "us")
    assert (writer.is_priced, writer.cost_usd(10)) == (False, 0.012)
    assert coder == ModelProfile("coder-medium", endpoints=(Endpoint("default", 0.5, 1.5),))
    said = set().union(*profiles.said.values())
    assert said == {one.name for one in fields(ModelProfile)} - {"name"}
    page = (DOCS / "profiles.md").read_text("utf-8")
    for one in (*fields(ModelProfile), *fields(Endpoint)):
        assert f"`{one.name}`" in page, one.name


def test_what_is_read_is_taken_as_it_stands(tmp_path: Path) -> None:
    text = "4.10: {region: no, roles: [on, 1.5x], mean_output_tokens: 1e3}\nyes: {context_tokens: 32_000}\n"
    profiles = read(tmp_path, text)
    assert profiles == {
        "4.10": ModelProfile("4.10", 1000.0, roles=("on", "1.5x"), region="no"),
        "yes": ModelProfile("yes", context_tokens=32_000),
    }


@pytest.mark.parametrize(
    ("modalities", "capabilities"),
    [
        ("[text]", ()),
        ("[text, image]", ("vision",)),
        ("[audio, pdf]", ("audio", "files")),
        ("[file, video]", ("files",)),
    ],
)
def test_capabilities_follow_from_modalities(tmp_path: Path, modalities: str, capabilities: tuple[str, ...]) -> None:
    assert read(tmp_path, f"m: {{modalities: {modalities}}}")["m"].capabilities == capabilities
    both = read(tmp_path, f"m: {{modalities: {modalities}, capabilities: [tools]}}")["m"]
    assert both.capabilities == tuple(sorted({"tools", *capabilities}))


def test_candidate_files_of_llmrouter_are_read_in_their_own_words(tmp_path: Path) -> None:
    theirs = {"m": {"size": "7B", "feature": "fast", "input_price": 0.2, "output_price": 0.3, "model": "x/m"}}
    expected = {"m": ModelProfile("m", endpoints=(Endpoint("default", 0.2, 0.3),))}
    assert read(tmp_path, json.dumps(theirs, indent=1), "default_llm.json") == expected


WRONG = {
    "m:\n  context_token: 5": (2, "m: unknown key 'context_token', did you mean context_tokens"),
    "m:\n  flavour: 5": (2, "unknown key 'flavour', expected one of mean_output_tokens"),
    "m:\n  roles: [a]\n  endpoints:\n    - name: a\n      uptme: 1": (5, r"m.endpoints\[0\]: unknown key 'uptme', did"),
    "m:\n  endpoints:\n    - {name: a}\n    - {name: a}": (4, "a second endpoint is named a, as at .*:3"),
    "m:\n  endpoints:\n    - {}\n    - {}": (4, "a second endpoint is named default"),
    "m: {region: x}\n\nm: {region: y}": (3, "'m' is there twice, first at .*:1"),
    "m:\n  region: x\n  region: y": (3, "'region' is there twice"),
    "m:\n  context_tokens: 1.5": (2, "whole number of tokens from 1 to 1e[+]12, got 1.5"),
    "m:\n  context_tokens: 0": (2, "whole number of tokens"),
    "m:\n  context_tokens: true": (2, "whole number of tokens from 1 to 1e[+]12, got True"),
    "m:\n  mean_output_tokens: .nan": (2, "finite number.*got nan"),
    "m:\n  mean_output_tokens: null": (2, "finite number.*got None"),
    "m:\n  mean_cost_usd: 1e400": (2, "finite number.*got inf"),
    f"m:\n  mean_cost_usd: {'9' * 5000}": (2, "finite number.*got inf"),
    "m:\n  mean_cost_usd: 0x10": (2, "finite number.*got '0x10'"),
    "m:\n  locality: lokal": (2, "expected local or remote .did you mean local.., got 'lokal'"),
    "m:\n  region: [a]": (2, "m.region: expected a text, got a list"),
    "m:\n  region: 5": (2, "m.region: expected a text, got 5"),
    'm:\n  gateway_model: "a\\nb"': (2, "m.gateway_model: expected a name, a printable text"),
    "m:\n  capabilities: vision": (2, "m.capabilities: expected a list of names, got 'vision'"),
    "m:\n  capabilities: [visoin]": (2, "unknown capability 'visoin', did you mean vision"),
    "m:\n  modalities: [images]": (2, "unknown modality 'images', did you mean image"),
    f"m:\n  roles: [{', '.join(f'r{i}' for i in range(65))}]": (2, "at most 64 names, got 65"),
    "m:\n  usd_per_mtok_in: 1\n  endpoints: [{name: a}]": (2, "expected it in one of the endpoints"),
    "m:\n  endpoints: []\n  usd_per_mtok_out: 1": (3, "m.usd_per_mtok_out: expected it in one of the endpoints"),
    "m:\n  endpoints:\n   - 5": (3, r"m.endpoints\[0\]: expected an object, .*got 5"),
    "m:\n  endpoints:\n   - {name: a, usd_per_mtok_out: 1}": (3, "usd_per_mtok_in is missing"),
    "m:\n  endpoints:\n   - name: a\n     uptime: 99.9": (4, "a share from 0 to 1 .0.999 for 99.9 %., got 99.9"),
    "m:\n  endpoints:\n   - name: a\n     tokens_per_s: 0": (4, "a number above 0, got 0"),
    "m:\n  endpoints:\n   - name: a\n     latency_ms: 5": (4, "expected {p50: MS, p95: MS}"),
    "m:\n  endpoints:\n   - name: a\n     latency_ms: {p50: 5, p99: 6}": (4, "expected {p50: MS, p95: MS}"),
    "m:\n  endpoints:\n   - name: a\n     latency_ms: {p50: 5, p95: 4}": (4, "latency_p95_ms 4 is below"),
    "m:\n  endpoints:\n   - latency_p50_ms: 3\n     latency_ms: {p50: 5}": (4, "are the same, expected one of them"),
    "m:\n": (1, "m: expected a mapping, .*got None"),
    "m: {}": (1, "m: no price, nor anything else"),
    "m: &a {region: x}\nn: *a": (2, "[*]a is an alias"),
    "m: &a {region: x}\nn:\n  <<: *a": (3, "[*]a is an alias"),
    "m: !!python/object/apply:os.system [ls]": (1, "tag .*os.system is not read"),
    "a: {region: x}\n[1, 2]: {region: y}": (2, "a key is a list or a mapping"),
    "? {a: b}\n: 5": (1, "a key is a list or a mapping"),
    '"": {region: x}': (1, "a model's name"),
    "m: {region: x}\n---\nn: {region: x}": (2, "a second document"),
    "m:\n  region: x\n  endpoints: [": (3, "neither YAML nor JSON"),
    "m:\n  region: \x07": (2, "control character, '.x07'"),
    "[" * 100_000: (1, "nested deeper than 16|nesting depth"),
    "- " * 100_000: (1, "nested deeper than 16|nesting depth"),
    "\n".join(" " * i + "a:" for i in range(100)): (17, "nested deeper than 16|nesting depth"),
    "m: {" * 16 + "region: x": (1, "nested deeper than 16|expected a mapping"),
    "just words": (1, "mapping of model names to profiles, got 'just words'"),
    "": (1, "mapping of model names to profiles, got None"),
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_errors_name_file_and_line(tmp_path: Path, text: str) -> None:
    line, wanted = WRONG[text]
    with pytest.raises(ConfigError, match=rf"profiles.yaml:{line}: .*({wanted})") as caught:
        read(tmp_path, text)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 500


@pytest.mark.parametrize("loader", [yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)])
def test_both_parsers_of_pyyaml_read_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: type[yaml.SafeLoader]
) -> None:
    monkeypatch.setattr("router.marked._LOADER", loader)
    assert read(tmp_path, (DOCS / "profiles.yaml").read_text("utf-8")) == read_profiles(DOCS / "profiles.yaml")
    for text, (line, wanted) in WRONG.items():
        if len(text) < 10_000:
            with pytest.raises(ConfigError, match=rf"profiles.yaml:{line}: .*({wanted})"):
                read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "line", "wanted"),
    [
        ('{"m":\n {"region": "x",}\n}', 2, "not JSON"),
        ('{"m": {\n\t"region": "x",\n\t"flavour": 5\n}}', 3, "unknown key 'flavour'"),
        ('{"m": {"region": "x"},\n "m": {"region": "y"}}', 2, "'m' is there twice"),
        ('{"m": {\n"mean_cost_usd": NaN}}', 2, "got 'NaN'"),
        ('{"m": {\n"mean_cost_usd": -Infinity}}', 2, "got '-Infinity'"),
        ('{"m": {\n"mean_cost_usd": %s}}' % ("9" * 5000), 2, "got inf"),
        ('{"m": {\n"region": "\\ud83d"}}', 2, "neither YAML nor JSON|a printable text"),
    ],
)
def test_errors_in_json_name_the_line(tmp_path: Path, text: str, line: int, wanted: str) -> None:
    with pytest.raises(ConfigError, match=rf"profiles.json:{line}: .*({wanted})"):
        read(tmp_path, text, "profiles.json")


def test_json_is_json(tmp_path: Path) -> None:
    text = json.dumps({"😀 a/b": {"region": "a\\ud83d", "mean_output_tokens": 1e-7}}, indent="\t").replace("b", "\\/b")
    expected = {"😀 a//b": ModelProfile("😀 a//b", 1e-7, region="a\\ud83d")}
    assert read(tmp_path, text, "profiles.json") == expected
    with pytest.raises(ConfigError, match="nested deeper"):
        read(tmp_path, "[" * 200_000 + "]" * 200_000, "profiles.json")


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"larger than 4,194,304 bytes"):
        read(tmp_path, "m: {region: x} #" + " " * 10_000_000)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_profiles(tmp_path)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from([*(one.name for one in (*fields(ModelProfile), *fields(Endpoint))), "latency_ms", "input_price"])


@given(
    st.dictionaries(
        st.text(max_size=8),
        plain
        | st.dictionaries(keys, plain | st.lists(st.dictionaries(keys, plain, max_size=5), max_size=3), max_size=6),
        max_size=4,
    ),
    st.booleans(),
)
def test_whatever_is_written_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, raw: Any, as_json: bool
) -> None:
    path = tmp_path_factory.mktemp("any") / ("profiles.json" if as_json else "profiles.yaml")
    path.write_bytes(
        (json.dumps(raw) if as_json else yaml.safe_dump(raw, allow_unicode=True)).encode("utf-8", "replace")
    )
    with contextlib.suppress(ConfigError):
        profiles = read_profiles(path)
        assert set(profiles) == set(raw)
        Catalogue(tuple(profiles), profiles)
    with contextlib.suppress(ConfigError):
        profiles_from_json(raw, "here")


@given(st.text(alphabet=st.sampled_from("am:-?[]{},&*!|>'\"%@`# \n\t1.e\\é\x85\u2028"), max_size=40), st.booleans())
def test_no_text_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, text: str, as_json: bool) -> None:
    path = tmp_path_factory.mktemp("text") / ("profiles.json" if as_json else "profiles.yaml")
    path.write_bytes(text.encode())
    with contextlib.suppress(ConfigError):
        read_profiles(path)


amounts = st.floats(0, 1e9)
# The first letter keeps PyYAML from writing a text plainly that this reader, as JSON has it, takes for a number: 1e3.
names = st.text(st.characters(categories=["L", "N", "P"]), max_size=12).map("n{}".format)
endpoints = st.builds(
    lambda name, price, ms, speed, up, place, region: Endpoint(
        name, *(price or (None, None)), *(sorted(ms) if ms else (None, None)), speed, up, place, region
    ),
    names,
    st.none() | st.tuples(amounts, amounts),
    st.none() | st.tuples(amounts, amounts),
    st.none() | st.floats(0.001, 1e6),
    st.none() | st.floats(0, 1),
    st.sampled_from([None, "local", "remote"]),
    st.none() | names,
)
some_names = st.lists(st.sampled_from(["vision", "json", "mine", "other words"]), unique=True).map(sorted).map(tuple)
models = st.builds(
    ModelProfile,
    name=names,
    mean_output_tokens=amounts,
    endpoints=st.lists(endpoints, max_size=3, unique_by=lambda one: one.name).map(tuple),
    mean_cost_usd=st.none() | amounts,
    gateway_model=st.none() | names,
    capabilities=st.none() | some_names,
    context_tokens=st.none() | st.integers(1, 10**9),
    roles=some_names,
    locality=st.sampled_from([None, "local", "remote"]),
    region=st.none() | names,
)
catalogues = st.lists(models, min_size=1, max_size=4, unique_by=lambda one: one.name).map(
    lambda several: {one.name: one for one in several}
)


@given(catalogues)
def test_what_is_written_as_yaml_or_json_comes_back(tmp_path_factory: pytest.TempPathFactory, profiles: Any) -> None:
    folder = tmp_path_factory.mktemp("again")
    (folder / "a.json").write_text(json.dumps(profiles_to_json(profiles)), encoding="utf-8")
    (folder / "a.yaml").write_text(yaml.safe_dump(profiles_to_json(profiles), allow_unicode=True), encoding="utf-8")
    assert dict(read_profiles(folder / "a.json")) == profiles
    assert dict(read_profiles(folder / "a.yaml")) == profiles


def test_a_file_over_an_artifact_changes_what_it_says(tmp_path: Path) -> None:
    base = {**FULL, "other": ModelProfile("other", 77.0, mean_cost_usd=0.3)}
    given_profiles = read(
        tmp_path,
        "m: {region: eu, context_tokens: null, roles: null}\n"
        "other: {endpoints: [{name: z, uptime: 0.5}]}\n"
        "new: {mean_cost_usd: 2}\n",
    )
    assert merged(base, given_profiles) == {
        **FULL,
        "m": replace(FULL["m"], region="eu", context_tokens=None, roles=()),
        "other": ModelProfile("other", 77.0, (Endpoint("z", uptime=0.5),), 0.3),
        "new": ModelProfile("new", mean_cost_usd=2.0),
    }


def test_modalities_over_an_artifact_leave_other_capabilities(tmp_path: Path) -> None:
    base = {"m": ModelProfile("m", capabilities=("audio", "tools", "vision")), "n": ModelProfile("n")}
    given_profiles = read(tmp_path, "m: {modalities: [text, pdf]}\nn: {modalities: [image]}")
    out = merged(base, given_profiles)
    assert (out["m"].capabilities, out["m"].modalities) == (("files", "tools"), ("text", "pdf"))
    assert out["n"].capabilities == ("vision",)


def test_profiles_that_are_not_of_a_file_are_taken_whole() -> None:
    base = {"m": FULL["m"], "n": ModelProfile("n", 3.0)}
    assert merged(base, {"m": ModelProfile("m")}) == {"m": ModelProfile("m"), "n": ModelProfile("n", 3.0)}


@given(catalogues, catalogues)
def test_merging_all_fields_is_replacing(base: Any, over: Any) -> None:
    every = frozenset(one.name for one in fields(ModelProfile)) - {"name"}
    said = GivenProfiles(over, dict.fromkeys(over, every))
    assert merged(base, said) == {**base, **over}
    nothing = GivenProfiles(over, dict.fromkeys(over, frozenset()))
    assert merged(base, nothing) == {**over, **base}
