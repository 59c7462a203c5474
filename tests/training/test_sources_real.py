"""Real logs: the readers on published files and copies of them, which the folder in WHICHMODEL_DATA holds."""

import os
from pathlib import Path

import pytest

from router.errors import DataError
from training.inspect import inspect_log
from training.sources import load


@pytest.fixture(scope="module")
def data() -> Path:
    folder = os.environ.get("WHICHMODEL_DATA")
    if not folder:
        pytest.skip("WHICHMODEL_DATA is not set: real logs are not read")
    return Path(folder)


@pytest.mark.parametrize(
    ("name", "format", "n_rows", "n_models", "n_intents"),
    [
        ("llmrouter/train.parquet", "llmrouter", 5608, 9, 14),
        ("llmrouter/test.parquet", "llmrouter", 500, 9, 10),
        ("alpacaeval/battles.parquet", "canonical", 44265, 56, 0),
        ("alpacaeval/battles_v1.parquet", "canonical", 42602, 54, 0),
        ("routerbench/train.parquet", "wide_rows", 2205, 11, 3),
        ("routerbench/test.parquet", "wide_rows", 945, 11, 3),
        ("pulze", "pulze", 10, 2, 2),
    ],
)
def test_every_row_is_kept(data: Path, name: str, format: str, n_rows: int, n_models: int, n_intents: int) -> None:
    log = load(data / name)
    assert (log.sources[0].format, log.sources[0].n_rows, log.sources[0].n_kept) == (format, n_rows, n_rows)
    assert (len(log), len(log.models), log.refusals, log.notes) == (n_rows, n_models, [], {})
    assert len({row.intent for row in log.comparisons} - {None}) == n_intents


@pytest.mark.parametrize(
    ("name", "n_rows", "best", "accuracy"),
    [
        ("arc_challenge_test", 352, "HuggingFaceH4/zephyr-7b-beta", 0.5795),
        ("arc_challenge_train", 820, "HuggingFaceH4/zephyr-7b-beta", 0.5695),
        ("arc_easy_test", 713, "cognitivecomputations/dolphin-2.6-mistral-7b", 0.8303),
        ("arc_easy_train", 1663, "cognitivecomputations/dolphin-2.6-mistral-7b", 0.8244),
        ("cmmlu_test", 3475, "meta-llama/Meta-Llama-3-8B", 0.5177),
        ("cmmlu_train", 2000, "meta-llama/Meta-Llama-3-8B", 0.4840),
        ("gsm8k-test", 1319, "cognitivecomputations/dolphin-2.9-llama3-8b", 0.6981),
        ("gsm8k-train", 1000, "meta-math/MetaMath-Mistral-7B", 0.8241),
        ("humaneval_test", 49, "cognitivecomputations/dolphin-2.9-llama3-8b", 0.4939),
        ("humaneval_train", 115, "cognitivecomputations/dolphin-2.9-llama3-8b", 0.5209),
        ("mmlu_test", 4213, "meta-llama/Meta-Llama-3-8B", 0.6459),
        ("mmlu_train", 2000, "meta-llama/Meta-Llama-3-8B", 0.6560),
    ],
)
def test_routerdc_gives_the_published_accuracy(data: Path, name: str, n_rows: int, best: str, accuracy: float) -> None:
    log = load(data / "routerdc" / f"{name}.parquet")
    assert (len(log), len(log.models), log.refusals) == (n_rows, 7, [])
    models = inspect_log(log)["models"]
    assert next(iter(models)) == best
    assert models[best]["mean_score"] == pytest.approx(accuracy, abs=1e-4)


@pytest.mark.parametrize("name", ["routellm/mmlu", "routellm/gsm8k", "zeroeval/gsm", "zeroeval/crux"])
def test_flags_beside_boolean_models_are_never_taken_silently(data: Path, name: str) -> None:
    with pytest.raises(DataError, match="--models"):
        load(data / f"{name}.parquet")


ROUTELLM = ["mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"]


@pytest.mark.parametrize(
    ("name", "models", "n_rows", "mean"),
    [
        ("routellm/mmlu", ROUTELLM, 14042, 0.8058),
        ("routellm/gsm8k", ROUTELLM, 1319, 0.8567),
        ("zeroeval/gsm", ["gemini-1.5-pro", "claude-3-5-sonnet-20241022"], 1319, 0.967),
        ("zeroeval/crux", ["gpt-4-0314", "o1-preview-2024-09-12"], 800, 0.959),
    ],
)
def test_named_models_are_read_beside_flags(data: Path, name: str, models: list[str], n_rows: int, mean: float) -> None:
    log = load(data / f"{name}.parquet", models=models)
    assert (len(log), log.models, log.refusals) == (n_rows, sorted(models), [])
    assert inspect_log(log)["models"][models[1]]["mean_score"] == pytest.approx(mean, abs=1e-3)


def test_a_partial_column_is_counted_as_not_scored(data: Path) -> None:
    models = ["gemini-1.5-flash-exp-0827", "claude-3-5-sonnet-20241022"]
    log = load(data / "zeroeval/gsm.parquet", models=models)
    assert list(log.notes.values()) == [1319 - 681]
    assert sum(models[0] in (row.scores or {}) for row in log.comparisons) == 681


def test_routerbench_carries_the_cost_of_each_call(data: Path) -> None:
    log = load(data / "routerbench/test.parquet")
    assert all(row.costs_usd is not None and len(row.costs_usd) == 11 for row in log.comparisons)
    costs = [row.costs_usd["gpt-4-1106-preview"] for row in log.comparisons if row.costs_usd]
    assert sum(costs) / len(costs) == pytest.approx(0.0050, abs=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "alpacaeval/annotations.parquet",
        "alpacaeval/leaderboard_v2.parquet",
        "alpacaeval/prompts.parquet",
        "arenahard/questions_v0_1.parquet",
        "arenahard/questions_v2_0.parquet",
        "arenahard/arena_hard_leaderboard_20240731.csv",
        "autoj/scenario_train.parquet",
        "autoj/scenarios.parquet",
        "cje_arena/prompts.parquet",
        "llmrouter/default_llm.json",
        "prices/litellm-model-prices.json",
        "pulze/expected.json",
        "routellm/mtbench_judgements.parquet",
        "routellm/mtbench_questions.parquet",
        "routellm/mtbench_commercial_routers.parquet",
        "zeroeval/price_match.csv",
    ],
)
def test_files_that_are_no_logs_are_refused_in_one_line(data: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"^[^\n]+$"):
        load(data / name)


def test_the_battles_form_a_star(data: Path) -> None:
    report = inspect_log(load(data / "alpacaeval/battles.parquet"))
    assert report["graph"]["star_centre"] == "gpt4_1106_preview"
    assert len(report["graph"]["components"]) == 1
    assert (report["pairs"]["seen"], report["pairs"]["possible"]) == (55, 56 * 55 // 2)
    assert report["prompts"]["unique_exact"] == 805
    assert report["battles"]["tie_share"] == pytest.approx(481 / 44265, abs=1e-4)
    assert any("a star" in sentence for sentence in report["warnings"])


def test_shared_few_shot_prefixes_are_reported(data: Path) -> None:
    report = inspect_log(load(data / "routerbench/test.parquet"))
    assert {1653, 1221}.issubset(report["template"]["prefix_chars"])
    assert report["template"]["row_share"] >= (437 + 380) / 945 - 1e-4


def test_scripts_of_a_chinese_benchmark(data: Path) -> None:
    shares = inspect_log(load(data / "routerdc/cmmlu_test.parquet"))["scripts"]["shares"]
    assert shares["Han"] > 0.9
