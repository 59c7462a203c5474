"""From published catalogues to a profile file: made up ones by hand, and the real ones of WHICHMODEL_DATA."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from router.artifact import RouterArtifact
from router.cli import main
from router.errors import ConfigError
from router.price_doubts import CODES, count_by_code, price_doubts
from router.profile_import import select
from router.profiles import read_profiles
from router.published_catalogue import identity_of, read_catalogue
from router.types import Endpoint


def entry(usd_in: Any, usd_out: Any, provider: str = "openai", **more: Any) -> dict[str, Any]:
    prices = {"input_cost_per_token": usd_in, "output_cost_per_token": usd_out}
    return {"litellm_provider": provider, "mode": "chat", **prices, **more}


LITELLM = {
    "sample_spec": {"mode": "one of: chat, embedding"},
    "gpt-x": entry(
        2.5e-06,
        1e-05,
        max_input_tokens=128000,
        max_output_tokens=16384,
        supports_vision=True,
        supports_pdf_input=True,
        supports_function_calling=True,
        supports_response_schema=True,
    ),
    "azure/eu/gpt-x": entry(2.75e-06, 1.1e-05, "azure"),
    "azure/gpt-x": entry(None, None, "azure"),
    "us.openai.gpt-x-v1:0": entry(2.5e-06, 1e-05, "bedrock_converse"),
    "wandb/openai/gpt-x": entry(0.025, 0.1, "wandb"),
    "ollama/gpt-x": entry(0.0, 0.0, "ollama", max_tokens=8192),
    "far/gpt-x": entry(2.4e-07, 1e-06, "far"),
    "free/gpt-x": entry(0.0, 0.0, "free"),
    "other": entry(1e-06, 2e-06),
    "other-free": entry(0, 0),
    "swapped": entry(2e-06, 5e-07),
    "dear-words": entry(1e-06, 1e-04),
    "half": entry(None, 1e-06),
    "negative": entry(-1e-06, 1e-06),
    "text": entry("1e-6", 1e-06),
    "fee": entry(1e-06, 1e-06, input_cost_per_request=0.005),
    "embed": entry(1e-06, 0, mode="embedding"),
    "azure/text-embed-x": entry(1e-06, 0),
    "bedrock/us-east-1/1-month-commitment/gpt-x": entry(None, None, "bedrock"),
    "a\nb": entry(1e-06, 1e-06),
    "broken": ["not", "an", "object"],
}
DOUBTED = {
    "wandb/openai/gpt-x": "above_200_usd",
    "far/gpt-x": "far_from_median",
    "free/gpt-x": "zero_price",
    "other-free": "zero_price",
    "swapped": "output_below_input",
    "dear-words": "output_far_above_input",
    "half": "half_a_price",
    "negative": "negative_price",
    "text": "not_a_number",
    "fee": "per_request_fee",
}
MODELS_DEV = {
    "source": {"vendor": "models.dev", "capturedAt": "2026-05-15T04:11:04.976Z"},
    "models": [
        {
            "modelId": "openai/gpt-x",
            "providerId": "openai",
            "capabilities": ["text.chat", "tools.function_calling", "reasoning"],
            "modalities": ["image", "pdf", "text"],
            "contextWindow": 128000,
            "pricing": {"inputPer1M": 2.5, "outputPer1M": 10, "currency": "USD"},
        },
        {"modelId": "euro/gpt-x", "providerId": "euro", "capabilities": ["text.chat"], "contextWindow": 0}
        | {"pricing": {"inputPer1M": 2, "outputPer1M": 9, "currency": "EUR"}},
        {"modelId": "openai/dall-e", "providerId": "openai", "capabilities": []},
        {"modelId": "openai/gpt-x", "providerId": "openai", "capabilities": ["text.chat"]},
        "broken",
    ],
}


@pytest.fixture
def litellm(tmp_path: Path) -> Path:
    path = tmp_path / "litellm.json"
    path.write_text(json.dumps(LITELLM))
    return path


def test_doubts_by_hand(litellm: Path) -> None:
    catalogue = read_catalogue(litellm, "litellm")
    doubts = price_doubts(catalogue.offers)
    assert {key: one.code for key, one in doubts.items()} == DOUBTED
    assert set(CODES) == set(DOUBTED.values())  # none of the rules is without a case
    assert count_by_code(doubts)["zero_price"] == 2
    assert "25000 USD in and 100000 USD out" in doubts["wandb/openai/gpt-x"].detail
    assert "the median of 3 other providers is 2.5 USD in and 10 USD out" in doubts["far/gpt-x"].detail
    assert catalogue.skipped == {
        "describes the fields": 1,
        "mode embedding": 1,
        "no chat model, by its name": 1,
        "sold by the month": 1,
        "no usable name": 1,
        "no object": 1,
    }
    assert catalogue.n_entries == len(LITELLM) == len(catalogue.offers) + sum(catalogue.skipped.values())


def test_of_two_that_differ_a_third_decides(tmp_path: Path) -> None:
    def doubted(*usd: float) -> list[str]:
        entries = {f"p{place}/m": entry(one / 1e6, one / 1e6, f"p{place}") for place, one in enumerate(usd)}
        (tmp_path / "c.json").write_text(json.dumps(entries))
        return list(price_doubts(read_catalogue(tmp_path / "c.json", "litellm").offers))

    assert doubted(1, 100) == []
    assert doubted(1, 1, 100) == ["p2/m"]
    assert doubted(100, 100, 1) == ["p2/m"]
    assert doubted(1, 10, 100) == []
    assert doubted(1, 10, 10) == []
    assert doubted(0.99, 10, 10) == ["p0/m"]


def test_a_model_is_written_with_all_its_endpoints(litellm: Path, tmp_path: Path) -> None:
    found = select(read_catalogue(litellm, "litellm"), ["gpt-x", "gpt-xx"])
    (tmp_path / "out.yaml").write_text(found.render())
    profile = read_profiles(tmp_path / "out.yaml")["gpt-x"]
    assert profile.capabilities == ("files", "json", "tools", "vision")
    assert profile.modalities == ("image", "pdf", "text")
    assert (profile.context_tokens, profile.gateway_model, profile.locality) == (128_000, None, None)
    assert set(profile.endpoints) == {
        Endpoint("gpt-x", 2.5, 10.0, locality="remote"),
        Endpoint("azure/gpt-x", locality="remote"),
        Endpoint("azure/eu/gpt-x", 2.75, 11.0, locality="remote", region="eu"),
        Endpoint("us.openai.gpt-x-v1:0", 2.5, 10.0, locality="remote", region="us"),
        Endpoint("wandb/openai/gpt-x", locality="remote"),
        Endpoint("ollama/gpt-x", 0.0, 0.0, locality="local"),
        Endpoint("far/gpt-x", locality="remote"),
        Endpoint("free/gpt-x", locality="remote"),
    }
    assert profile.endpoints[0].name == "gpt-x"
    comments = [line.strip() for line in found.render().splitlines() if line.strip().startswith("# price left out")]
    assert [line.split(", ")[1].split(":")[0] for line in comments] == [one.code for one in found.left_out]
    assert sorted(one.key for one in found.left_out) == ["far/gpt-x", "free/gpt-x", "wandb/openai/gpt-x"]
    assert found.missing == {"gpt-xx": ("gpt-x",)}


def test_the_asked_for_key_describes_the_model(litellm: Path) -> None:
    catalogue = read_catalogue(litellm, "litellm")
    by_key = select(catalogue, ["ollama/gpt-x"]).models[0]
    assert (by_key.name, by_key.offers[0].key, len(by_key.offers)) == ("ollama/gpt-x", "ollama/gpt-x", 8)
    assert by_key.offers[0].context_tokens == 8192
    mapped = select(catalogue, ["mine"], [("azure/gpt-x", "mine"), ("other", "mine")]).models
    assert [(one.name, one.offers[0].key, one.offers[-1].key) for one in mapped] == [("mine", "azure/gpt-x", "other")]
    assert "gateway_model: azure/gpt-x" in select(catalogue, [], [("azure/gpt-x", "mine")]).render()
    with pytest.raises(ConfigError, match=r"--map gpt-y=mine: .*did you mean gpt-x"):
        select(catalogue, [], [("gpt-y", "mine")])


def test_units_of_the_other_catalogue(tmp_path: Path) -> None:
    (tmp_path / "md.json").write_text(json.dumps(MODELS_DEV))
    catalogue = read_catalogue(tmp_path / "md.json", "models-dev")
    first, euro = catalogue.offers
    assert (first.usd_per_mtok_in, first.usd_per_mtok_out, first.context_tokens) == (2.5, 10.0, 128_000)
    assert first.capabilities == ("files", "reasoning", "tools", "vision")
    assert (euro.usd_per_mtok_in, euro.context_tokens) == (None, None)  # other money is no price here
    assert catalogue.skipped == {"no chat model": 1, "named twice": 1, "no object": 1}
    assert "models.dev of 2026-05-15" in select(catalogue, every=True).render()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("claude-3-haiku-20240307", "us.anthropic.claude-3-haiku-20240307-v1:0"),
        ("claude-3-haiku-20240307", "vertex_ai/claude-3-haiku@20240307"),
        ("claude-3-haiku-20240307", "bedrock/us-gov-east-1/anthropic.claude-3-haiku-20240307-v1:0"),
        ("gpt-oss-120b", "openai.gpt-oss-120b-1:0"),
        ("meta-llama/Llama-3.1-70B-Instruct", "fireworks_ai/accounts/fireworks/models/llama-v3p1-70b-instruct"),
        ("Meta-Llama-3.1-70B-Instruct", "us.meta.llama3-1-70b-instruct-v1:0"),
        ("gemini-2.5-pro", "databricks/databricks-gemini-2-5-pro"),
        ("deepseek-v3", "deepinfra/deepseek-ai/DeepSeek-V3"),
    ],
)
def test_names_of_one_model(one: str, other: str) -> None:
    assert identity_of(one) == identity_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gpt-4o", "gpt-4o-mini"),
        ("gpt-4o", "gpt-4o-2024-05-13"),
        ("anthropic.claude-v2", "anthropic.claude-v2:1"),
        ("deepseek-v3", "deepseek-v3.1"),
        ("mistral.mistral-7b-instruct-v0:2", "mistral-7b-instruct"),
        ("openrouter/x/m:free", "openrouter/x/m"),
        ("ft:gpt-4o-2024-08-06", "gpt-4o-2024-08-06"),
    ],
)
def test_names_of_two_models(one: str, other: str) -> None:
    assert identity_of(one) != identity_of(other)


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    (
        *("litellm_provider", "input_cost_per_token", "output_cost_per_token", "max_input_tokens", "supports_vision"),
        *("supported_modalities", "providerId", "capabilities", "modalities", "contextWindow", "pricing", "max_tokens"),
    )
)


@given(st.dictionaries(st.text(max_size=6), st.dictionaries(FIELDS, anything, max_size=8), max_size=5))
def test_whatever_is_published_is_read_and_can_be_read_again(
    tmp_path_factory: pytest.TempPathFactory, raw: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("published")
    (folder / "l.json").write_text(json.dumps({key: {"mode": "chat", **one} for key, one in raw.items()}))
    models = [{"modelId": key, **one, "capabilities": ["text.chat"]} for key, one in raw.items()]
    (folder / "m.json").write_text(json.dumps({"models": models}))
    for kind in ("litellm", "models-dev"):
        try:
            found = select(read_catalogue(folder / f"{kind[0]}.json", kind), every=True)
        except ConfigError:
            assert not [key for key in raw if key.strip() and key.isprintable() and key != "sample_spec"]
            continue
        (folder / "out.yaml").write_text(found.render(), encoding="utf-8")
        profiles = read_profiles(folder / "out.yaml")
        assert list(profiles) == [one.name for one in found.models]
        assert yaml.safe_load(found.render()).keys() == profiles.keys()  # others read the same names


@pytest.mark.parametrize(
    ("content", "wanted"),
    [("{", "x.json:1: not JSON"), ("[]", "LiteLLM's object"), ('{"a": {}}', "holds no chat models")],
)
def test_other_files_are_refused(tmp_path: Path, content: str, wanted: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ConfigError, match=wanted):
        read_catalogue(tmp_path / "x.json", "litellm")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_catalogue(tmp_path / "none.json", "litellm")


def test_the_commands(
    litellm: Path, tmp_path: Path, artifact: RouterArtifact, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact.write(tmp_path / "artifact")
    out = tmp_path / "profiles.yaml"
    command = ["profiles", "import", "litellm", str(litellm), "--out", str(out)]
    assert main(command) == 2
    assert "give --artifact, --models, --map or --all" in capsys.readouterr().err

    mapped = ["--artifact", str(tmp_path / "artifact"), "--map", "gpt-x=coder-medium", "--json"]
    assert main([*command, *mapped]) == 0
    printed = capsys.readouterr().out
    report = json.loads(printed.splitlines()[-1])
    assert report["written"] == {"models": 1, "endpoints": 8, "priced": 4}
    assert (report["entries"], report["chat_models"], report["flagged"]["zero_price"]) == (22, 16, 2)
    assert sorted(report["missing"]) == ["chef-large", "guide-small"]
    assert "no price   wandb/openai/gpt-x: above_200_usd: 25000 USD in" in printed
    assert "not found  chef-large" in printed

    assert main([*command, *mapped]) == 1
    assert "exists already" in capsys.readouterr().err
    out.write_text("coder-medium: {region: x}\n")
    assert main([*command, *mapped, "--force"]) == 0
    assert not list(tmp_path.glob(".*partial"))
    capsys.readouterr()

    with out.open("a") as file:
        file.write("chef-larg: {modalities: [text]}\n")
    assert main(["profiles", "check", str(out), "--artifact", str(tmp_path / "artifact"), "--json"]) == 0
    printed = capsys.readouterr().out
    checked = json.loads(printed.splitlines()[-1])
    assert (checked["without_profile"], checked["without_model"]) == (["chef-large", "guide-small"], ["chef-larg"])
    assert "no profile chef-large (is it chef-larg?)" in printed
    assert "modalities without capabilities, taken to have no others: chef-larg" in printed
    assert checked["profiles"]["coder-medium"]["gateway_model"] == "gpt-x"
    first, second = printed.splitlines()[1:3]
    assert first.split()[:5] == ["coder-medium", "gpt-x", "2.5", "10", "128,000"]
    assert second.split() == ["far/gpt-x", "remote"]

    out.write_text("coder-medium:\n  regoin: x\n")
    assert main(["profiles", "check", str(out)]) == 1
    assert f"{out}:2: coder-medium: unknown key 'regoin', did you mean region?" in capsys.readouterr().err


def test_nothing_is_written_where_nothing_is_found(
    litellm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "none.yaml"
    command = ["profiles", "import", "litellm", str(litellm), "--out", str(out)]
    assert main([*command, "--models", "nobody"]) == 1
    assert "none of the models is in it: nobody" in capsys.readouterr().err
    assert main([*command, "--map", "gpt-x"]) == 1
    assert "expected GATEWAY=LOGGED" in capsys.readouterr().err
    assert main(["profiles", "import", "litellm", str(litellm), "--out", str(tmp_path / "no" / "x"), "--all"]) == 1
    assert "expected the name of a file in a directory that is there" in capsys.readouterr().err
    assert not out.exists()


@pytest.fixture
def published() -> Path:
    folder = os.environ.get("WHICHMODEL_DATA")
    if folder is None:
        pytest.skip("WHICHMODEL_DATA is not set: the published catalogues are not read")
    return Path(folder) / "prices"


FILES = {"litellm": "litellm-model-prices.json", "models-dev": "models-dev-snapshot.json"}
# USD per million tokens in and out, from the makers' price lists; by key at LiteLLM and at models.dev.
WELL_KNOWN = {
    ("gpt-4o", "openai/gpt-4o"): (2.5, 10.0),
    ("gpt-4o-mini", "openai/gpt-4o-mini"): (0.15, 0.6),
    ("gpt-4.1", "openai/gpt-4.1"): (2.0, 8.0),
    ("gpt-4.1-nano", "openai/gpt-4.1-nano"): (0.1, 0.4),
    ("o3", "openai/o3"): (2.0, 8.0),
    ("claude-3-haiku-20240307", "anthropic/claude-3-haiku-20240307"): (0.25, 1.25),
    ("claude-sonnet-4-5", "anthropic/claude-sonnet-4-5"): (3.0, 15.0),
    ("claude-opus-4-1-20250805", "anthropic/claude-opus-4-1-20250805"): (15.0, 75.0),
    ("gemini/gemini-2.5-pro", "google/gemini-2.5-pro"): (1.25, 10.0),
    ("gemini/gemini-2.5-flash", "google/gemini-2.5-flash"): (0.3, 2.5),
    ("groq/llama-3.3-70b-versatile", "groq/llama-3.3-70b-versatile"): (0.59, 0.79),
}
FLAGGED = {
    "litellm": (0, 0, 3, 4, 16, 20, 5, 2, 8),
    "models-dev": (0, 0, 0, 0, 0, 363, 13, 8, 21),
}
COUNTS = {"litellm": (2706, 2118, 985, 1997, 1939), "models-dev": (4577, 4415, 1452, 4241, 3836)}


@pytest.mark.parametrize("kind", FILES)
def test_counts_of_the_published_files(published: Path, tmp_path: Path, kind: str, capsys: Any) -> None:
    out = tmp_path / "all.yaml"
    assert main(["profiles", "import", kind, str(published / FILES[kind]), "--out", str(out), "--all", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    counted = (report["entries"], report["chat_models"], report["distinct_models"], report["priced"])
    assert (*counted, report["written"]["priced"]) == COUNTS[kind]
    assert report["flagged"] == dict(zip(CODES, FLAGGED[kind], strict=True))
    assert report["chat_models"] + sum(report["skipped"].values()) == report["entries"]
    profiles = read_profiles(out)
    assert len(profiles) == report["written"]["models"] == report["distinct_models"]
    assert sum(len(one.endpoints) for one in profiles.values()) == report["chat_models"]
    assert all((end.usd_per_mtok_in or 0) <= 200 for one in profiles.values() for end in one.endpoints)
    page = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text("utf-8")
    assert f"| {kind} | {' | '.join(f'{number:,}' for number in COUNTS[kind])} |" in page
    for place, code in enumerate(CODES):
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{code}` |"))
        assert row.endswith(f"| {FLAGGED['litellm'][place]} | {FLAGGED['models-dev'][place]} |")


def test_all_rows_known_to_be_wrong_are_flagged(published: Path) -> None:
    raw = json.loads((published / FILES["litellm"]).read_bytes())
    wrong = {key for key, one in raw.items() if 1e6 * (one.get("input_cost_per_token") or 0) > 200}
    assert len(wrong) == 16
    doubts = price_doubts(read_catalogue(published / FILES["litellm"], "litellm").offers)
    assert wrong <= doubts.keys()
    # Another source has it the other way round: 0.0375 in and 0.15 out.
    assert doubts["command-r7b-12-2024"].code == "output_below_input"


def test_prices_of_well_known_models(published: Path, tmp_path: Path) -> None:
    for place, kind in enumerate(FILES):
        catalogue = read_catalogue(published / FILES[kind], kind)
        (tmp_path / "known.yaml").write_text(select(catalogue, [keys[place] for keys in WELL_KNOWN]).render())
        profiles = read_profiles(tmp_path / "known.yaml")
        for keys, prices in WELL_KNOWN.items():
            first = profiles[keys[place]].endpoints[0]
            assert (first.name, first.usd_per_mtok_in, first.usd_per_mtok_out) == (keys[place], *prices)


@pytest.mark.parametrize(
    ("said", "remark"),
    [
        ("[vision, tools]", "no model names json: requests that need it are refused (422)"),
        ("[]", "no model names vision, tools, json: requests that need one of them are refused (422)"),
        ("[vision, tools, json]", None),
        (None, None),
    ],
)
def test_what_no_model_is_said_to_have_is_told(
    tmp_path: Path, capsys: Any, said: str | None, remark: str | None
) -> None:
    """Of what requests imply: a model that says nothing of its capabilities would take them all the same."""
    lines = ["a:", "  capabilities: []", "b:", "  roles: []" if said is None else f"  capabilities: {said}"]
    (tmp_path / "p.yaml").write_text("\n".join(lines))
    assert main(["profiles", "check", str(tmp_path / "p.yaml")]) == 0
    printed = capsys.readouterr().out
    assert ("no model names" in printed) is (remark is not None) and (remark or "") in printed


def test_an_import_tells_it_too(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "c.json").write_text(json.dumps(MODELS_DEV))
    options = ["models-dev", str(tmp_path / "c.json"), "--all", "--out", str(tmp_path / "p.yaml")]
    assert main(["profiles", "import", *options]) == 0
    assert "note       no model names json: requests that need it are refused (422)" in capsys.readouterr().out
