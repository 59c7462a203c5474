"""training/held_out.py: every tested row is decided by what was learnt without it, or before it."""

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from router.artifact import RouterArtifact
from router.encoder import OnnxEncoder, embed
from router.errors import DataError
from router.features import surface_features_of
from router.index import round_points, unit_points
from router.router import Router
from router.space import Space
from router.types import TRADE_OFFS, Endpoint, ModelProfile, Policy
from training import cross_fit, held_out  # pytest would take held_out.Plan for a class of tests
from training.build import train
from training.comparisons import Comparison, PreferenceLog
from training.cross_fit import CrossFit, Selection
from training.evidence import Battles, Table, tabulate
from training.hold_out import Far, Place
from training.learning_curve import read_learning_curve
from training.report import Report
from training.select import Config
from training.split import NEAR_DUPLICATE_COSINE, deal_folds, time_blocks
from training.value import cross_fit_factor

DAY = 86_400.0
N_ROWS, N_MODELS, DIM = 120, 4, 8
BLOCKS = np.random.default_rng(9).permutation(np.arange(N_ROWS) % 4)
NO_BATTLES = Battles(*(np.zeros(0, dtype=kind) for kind in (int, int, int, float, bool, float)))
COSTS = np.array([0.01, 0.02, 0.03, 0.05])


def place() -> Place:
    vectors = np.random.default_rng(1).normal(size=(N_ROWS, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Place(Space(np.zeros(DIM, dtype=np.float32), np.zeros(1), np.ones(1), 0.0), vectors, Far(0.7, 0.3))


PLACE = place()


def table_of(kind: str) -> Table:
    """Outcomes that follow the place of the row; of scores every one is known, and every answer's cost."""
    rng = np.random.default_rng(0)
    strength = PLACE.vectors[:, :N_MODELS].astype(np.float64)
    rows = np.repeat(np.arange(N_ROWS), 3)
    a = rng.integers(0, N_MODELS, len(rows))
    b = (a + rng.integers(1, N_MODELS, len(rows))) % N_MODELS
    y = (rng.random(len(rows)) < 1 / (1 + np.exp(-4 * (strength[rows, a] - strength[rows, b])))).astype(float)
    empty = np.full((N_ROWS, N_MODELS), np.nan)
    return Table(
        texts=tuple(map(str, range(N_ROWS))),
        originals=tuple(map(str, range(N_ROWS))),
        models=tuple("abcd"),
        kind=kind,
        scores=np.clip(0.5 + 0.5 * strength + rng.normal(0, 0.05, strength.shape), 0, 1) if kind == "scores" else empty,
        battles=NO_BATTLES
        if kind == "scores"
        else Battles(rows, a, b, y, np.zeros(len(rows), dtype=bool), np.ones(len(rows))),
        costs_usd=np.broadcast_to(COSTS, empty.shape),
        output_tokens=empty,
        row_weight=np.ones(N_ROWS),
        intents=np.full(N_ROWS, -1),
        intent_names=(),
        timestamps=BLOCKS * DAY * 30,
        input_tokens=np.ones(N_ROWS, dtype=np.int64),
    )


def flipped(table: Table, rows: NDArray[np.bool_]) -> Table:
    """Turn the outcomes of the marked rows upside down."""
    if table.kind == "scores":
        return replace(table, scores=np.where(rows[:, None], 1 - table.scores, table.scores))
    y = np.where(rows[table.battles.rows], 1 - table.battles.y, table.battles.y)
    return replace(table, battles=replace(table.battles, y=y))


def selection_of(table: Table) -> Selection:
    folds, clusters = deal_folds(np.arange(N_ROWS), 3, seed=0), deal_folds(np.arange(N_ROWS) // 6, 3, seed=5)
    return Selection(table, [PLACE], folds, clusters, lambda *_: None, blocks_in_time=BLOCKS)


@pytest.fixture
def few_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = tuple(Config(shrinkage, 30, False, guard, 0.1, 0.0) for shrinkage in (1.0, 10.0) for guard in (0.0, 0.5))
    monkeypatch.setattr(cross_fit, "grid", lambda table: configs)


@pytest.mark.parametrize("kind", ["scores", "battles"])
def test_later_outcomes_never_reach_earlier_choices(kind: str, few_configs: None) -> None:
    """Settings, slopes, priors, fixed model and neighbours of a block all come from the blocks before it."""
    table = table_of(kind)
    fit = selection_of(table).cross_fitted()
    np.testing.assert_array_equal(fit.rows, np.flatnonzero(BLOCKS > 0))
    blocks = BLOCKS[fit.rows]
    assert (fit.choose() != fit.fixed).sum() > 10, "the router leaves the fixed model"
    for block in (1, 2, 3):
        poisoned = selection_of(flipped(table, block <= BLOCKS)).cross_fitted()
        known, after = blocks <= block, blocks > block
        np.testing.assert_array_equal(poisoned.choose()[known], fit.choose()[known])
        np.testing.assert_array_equal(poisoned.prediction.quality[known], fit.prediction.quality[known])
        np.testing.assert_array_equal(poisoned.prediction.error[known], fit.prediction.error[known])
        np.testing.assert_array_equal(poisoned.fixed[known], fit.fixed[known])
        np.testing.assert_array_equal(poisoned.guard_z[known], fit.guard_z[known])
        assert (poisoned.worth.values[blocks == block] != fit.worth.values[blocks == block]).any()
        assert block == 3 or (poisoned.prediction.quality[after] != fit.prediction.quality[after]).any()


@pytest.mark.parametrize("kind", ["scores", "battles"])
def test_earlier_outcomes_do_reach_later_choices(kind: str, few_configs: None) -> None:
    """What the test above is worth: the oldest block is learnt from, and never tested."""
    table = table_of(kind)
    fit, other = (selection_of(one).cross_fitted() for one in (table, flipped(table, BLOCKS == 0)))
    assert (fit.prediction.quality[BLOCKS[fit.rows] == 1] != other.prediction.quality[BLOCKS[fit.rows] == 1]).all()


def test_learning_from_a_part_forgets_the_rest(few_configs: None) -> None:
    """Outcomes outside the marked rows move nothing but the settings, which stay those of the whole log."""
    learnt = np.arange(N_ROWS) % 2 == 0
    selection = selection_of(table_of("scores"))
    whole = selection.cross_fitted()
    part = selection.cross_fitted_from(learnt)
    np.testing.assert_array_equal(part.rows, whole.rows)
    assert (part.prediction.quality != whole.prediction.quality).any()
    np.testing.assert_array_equal(part.guard_z, whole.guard_z)
    everything = selection.cross_fitted_from(np.ones(N_ROWS, dtype=bool))
    np.testing.assert_array_equal(everything.prediction.quality, whole.prediction.quality)
    assert selection.can_learn_from(learnt)
    assert not selection.can_learn_from(BLOCKS > 0), "the first tested block has nothing to learn from"
    assert selection.can_learn_from(BLOCKS == 0)
    assert not selection.can_learn_from(np.zeros(N_ROWS, dtype=bool))


def run_of(table: Table) -> "held_out._Run":
    test = held_out.Plan(table, np.arange(N_ROWS), BLOCKS, in_time=True)
    profiles = {
        name: ModelProfile(name, mean_cost_usd=usd) for name, usd in zip(table.models, COSTS.tolist(), strict=True)
    }
    selection = selection_of(table)
    fit = selection.cross_fitted()
    return held_out._Run(test, profiles, fit, held_out._amounts_inside(test, profiles, selection))


def test_later_outcomes_never_reach_the_strategy_of_earlier_blocks(few_configs: None) -> None:
    """With costs a block's choices also hang on a point of the curve, which the blocks after it must not choose."""
    table = table_of("scores")
    run = run_of(table)
    assert run.curve() is not None
    blocks = BLOCKS[run.fit.rows]
    for block in (1, 2):
        poisoned = run_of(flipped(table, block < BLOCKS))
        for name in TRADE_OFFS:
            known, other = run.choices(name), poisoned.choices(name)
            np.testing.assert_array_equal(other[blocks <= block], known[blocks <= block])


@pytest.mark.parametrize("in_time", [True, False])
def test_the_protocol_in_words(in_time: bool) -> None:
    test = held_out.Plan(table_of("scores"), np.arange(N_ROWS), BLOCKS, in_time)
    assert ("4 blocks in time" in test.protocol) == in_time and ("4-fold cross-fitted" in test.protocol) != in_time


def stamped(log: PreferenceLog, days: NDArray[np.float64]) -> PreferenceLog:
    """The log's rows, so many days after the first."""
    rows = zip(log.comparisons, days.tolist(), strict=True)
    return PreferenceLog(comparisons=[replace(one, timestamp=1e9 + DAY * day) for one, day in rows])


def priced(log: PreferenceLog) -> PreferenceLog:
    costs = {"coder-medium": 0.01, "chef-large": 0.02, "guide-small": 0.005}
    return PreferenceLog(comparisons=[replace(one, costs_usd=costs) for one in log.comparisons])


@pytest.mark.parametrize(
    ("days", "wanted", "used"),
    [(30.0, None, "time"), (13.9, None, "random"), (30.0, "random", "random"), (1.0, "time", "time")],
)
def test_rows_that_span_weeks_are_tested_in_time(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object, days: float, wanted: str | None, used: str
) -> None:
    log = stamped(scores_log, np.linspace(0, days, 150))
    report = train(log, encoder=encoder, split=wanted)[1]
    assert report.details["split"] == used
    assert report.n_prompts == (120 if used == "time" else 150), "the oldest fifth is learnt from only"
    assert ("5 blocks in time" in report.protocol) == (used == "time")


def test_without_timestamps_rows_are_tested_at_random(trained: tuple[RouterArtifact, Report]) -> None:
    report = trained[1]
    assert report.details["split"] == "random" and report.n_prompts == 150 and "5-fold" in report.protocol
    assert "n_near_duplicates_of_earlier" not in report.details


@pytest.mark.parametrize("n_missing", [3, 150])
def test_a_split_by_time_needs_every_timestamp(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object, n_missing: int
) -> None:
    rows = stamped(scores_log, np.linspace(0, 30, 150)).comparisons
    rows = [replace(one, timestamp=None) if n < n_missing else one for n, one in enumerate(rows)]
    with pytest.raises(DataError, match=f"{n_missing} of 150 have none"):
        train(PreferenceLog(comparisons=rows), encoder=encoder, split="time")
    assert train(PreferenceLog(comparisons=rows), encoder=encoder)[1].details["split"] == "random"


@pytest.mark.parametrize("n_old", [15, 60, 135])
@pytest.mark.parametrize("costs", [False, True])
def test_two_times_make_two_blocks(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object, n_old: int, costs: bool
) -> None:
    """A log of two batches, whichever is the larger: the second is tested on the first."""
    log = stamped(priced(scores_log) if costs else scores_log, np.where(np.arange(150) < n_old, 0.0, 30.0))
    report = train(log, encoder=encoder)[1]
    assert report.details["split"] == "time" and report.n_prompts == 150 - n_old


def test_battles_are_tested_in_time(battles_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object) -> None:
    report = train(stamped(battles_log, np.linspace(0, 30, 150)), encoder=encoder)[1]
    assert (report.details["split"], report.n_prompts, report.kind) == ("time", 120, "battles")


def test_the_order_of_the_file_is_not_that_of_time(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object
) -> None:
    """Rows whose model changes with time: the report knows which came later, wherever they stand in the file."""
    swapped = {"coder-medium": "chef-large", "chef-large": "guide-small", "guide-small": "coder-medium"}
    late = np.random.default_rng(0).permutation(150) < 30
    rows = [
        replace(one, scores={swapped[name] if moved else name: score for name, score in (one.scores or {}).items()})
        for one, moved in zip(scores_log.comparisons, late, strict=True)
    ]
    drifting, shuffled = PreferenceLog(comparisons=rows), np.random.default_rng(1).permutation(30)
    days = np.empty(150)
    days[~late], days[late] = np.arange(120) / 5, 30 + shuffled / 30
    honest = train(stamped(drifting, days), encoder=encoder)[1]
    blind = train(drifting, encoder=encoder)[1]
    steady = train(stamped(scores_log, days), encoder=encoder)[1]
    assert honest.gain.mean < steady.gain.mean - 0.05, "the last block is routed by what used to hold"
    assert blind.details["split"] == "random"


def repeating(log: PreferenceLog) -> PreferenceLog:
    """125 rows in five blocks: the last block asks the first one's prompts again, in capitals, which the encoder folds.

    Models differ in the first and the last block alone: elsewhere nothing can be gained or lost.
    """
    rows = []
    for n, one in enumerate(log.comparisons[:125]):
        if n < 25:
            rows.append(one)
        elif n < 100:
            rows.append(replace(one, scores=dict.fromkeys(one.scores or {}, 0.5)))
        else:
            again = log.comparisons[n - 100]
            rows.append(replace(again, prompt=again.prompt.upper()))
    return stamped(PreferenceLog(comparisons=rows), np.arange(125.0))


def test_prompts_that_came_before_are_counted_and_taken_out(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: Callable[..., None]
) -> None:
    small_grid(SHRINKAGES=(1.0,), GUARDS=(0.0,))
    log = repeating(scores_log)
    vectors = embed(encoder, [one.prompt for one in log.comparisons])
    blocks = np.arange(125) // 25
    near = (vectors @ vectors.T > NEAR_DUPLICATE_COSINE) & (blocks[None, :] < blocks[:, None])
    assert near[100:].any(axis=1).all(), "the encoder folds case"
    report = train(log, encoder=encoder)[1]
    assert report.details["split"] == "time" and report.n_prompts == 100
    assert report.details["n_near_duplicates_of_earlier"] == near.any(axis=1).sum()
    assert report.gain.mean > 0.02
    assert report.details["gain_without_near"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    at_random = train(log, encoder=encoder, split="random")[1]
    assert "gain_without_near" not in at_random.details, "there, near-duplicates stay together"
    assert at_random.details["n_near_duplicates"] >= 25


def test_repeats_within_a_block_are_no_leak(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object
) -> None:
    rows = scores_log.comparisons[:50]
    texts = [one.prompt for one in rows]
    vectors = embed(encoder, texts)
    assert (vectors @ vectors.T > NEAR_DUPLICATE_COSINE).sum() == 50, "no two of these are near each other"
    both = [twin for one in rows for twin in (one, replace(one, prompt=one.prompt.upper()))]
    report = train(stamped(PreferenceLog(comparisons=both), np.arange(100.0)), encoder=encoder)[1]
    assert report.details["n_near_duplicates"] == 50
    assert report.details["n_near_duplicates_of_earlier"] == 0 and "gain_without_near" not in report.details


@pytest.mark.parametrize("split", ["time", "random"])
@pytest.mark.parametrize("costs", [False, True])
def test_the_learning_curve_ends_at_the_whole_log(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object, split: str, costs: bool
) -> None:
    log = stamped(priced(scores_log) if costs else scores_log, np.linspace(0, 30, 150))
    report = train(log, encoder=encoder, split=split)[1]
    points = report.details["learning_curve"]
    sizes = [one["n_rows"] for one in points]
    assert sizes == sorted(set(sizes)) and sizes[0] >= held_out.MIN_LEARNING_ROWS and sizes[-1] == 150
    assert len(sizes) > 1 and all(abs(n - 150 * share) <= 2 for n, share in zip(sizes, (0.25, 0.5), strict=False))
    assert points[-1]["gain"] == asdict(report.gain)
    if not costs:  # else the point of the curve moves as well
        assert points[0]["gain"]["mean"] < points[-1]["gain"]["mean"], "three kinds of prompts take some learning"
    read = read_learning_curve(report.to_json())
    assert read is not None and [one.n_rows for one in read.points] == sizes


@pytest.mark.parametrize("split", ["time", "random"])
def test_calibration_of_the_tested_rows_is_kept(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object, split: str
) -> None:
    report = train(stamped(scores_log, np.linspace(0, 30, 150)), encoder=encoder, split=split)[1]
    found = report.details["calibration"]
    assert list(found) == ["chosen model", "all models"]
    assert found["chosen model"]["n"] == report.n_prompts and found["all models"]["n"] == 3 * report.n_prompts
    outcome = sum(one["n"] * one["outcome"]["value"] for one in found["chosen model"]["bins"]) / report.n_prompts
    assert outcome == pytest.approx(report.router.quality)


@pytest.mark.parametrize("split", ["time", "random"])
def test_the_interval_is_widened_by_the_folds_that_were_tested(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = stamped(priced(scores_log), np.linspace(0, 30, 150))
    report = train(log, encoder=encoder, split=split)[1]
    monkeypatch.setattr(held_out, "cross_fit_factor", lambda n_parts: 1.0)
    plain = train(log, encoder=encoder, split=split)[1]
    factor = 1.0 if split == "time" else cross_fit_factor(5)  # earlier blocks are not decided by later ones
    pairs = [(report.gain, plain.gain)]
    for name in ("quality", "balanced", "cheap"):
        pairs.append(tuple(held_out.Gain(**one.details["strategies"][name]["gain"]) for one in (report, plain)))
    for wide, narrow in pairs:
        assert wide.mean == narrow.mean
        assert wide.high - wide.low == pytest.approx(factor * (narrow.high - narrow.low))


def test_strategies_without_costs(trained: tuple[RouterArtifact, Report]) -> None:
    artifact, report = trained
    assert artifact.strategies == {"quality": None, "balanced": None, "cheap": None}
    assert artifact.default_strategy == report.details["strategy"] == "quality"
    assert not {"curve", "strategies"} & set(report.details)


def test_strategies_with_costs(scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object) -> None:
    artifact, report = train(priced(scores_log), encoder=encoder)
    assert artifact.default_strategy == report.details["strategy"] == "balanced"
    assert artifact.strategies["quality"] is None
    balanced, cheap = artifact.strategies["balanced"], artifact.strategies["cheap"]
    assert cheap is not None and (balanced is None or balanced >= cheap > 0)
    found = report.details["strategies"]
    assert found["balanced"]["gain"] == asdict(report.gain)
    assert found["balanced"]["cost_usd"] == pytest.approx(report.router.cost_usd)
    assert found["cheap"]["cost_usd"] <= found["quality"]["cost_usd"]


def with_long_code(log: PreferenceLog, *, costs: bool = False, tokens: bool = False) -> PreferenceLog:
    """Answers to code are three times as long and as dear as others, whichever model gives them."""
    base = {"coder-medium": 1.0, "chef-large": 4.0, "guide-small": 0.5}
    rows = []
    for one in log.comparisons:
        size = 3.0 if one.intent == "code" else 1.0
        rows.append(
            replace(
                one,
                costs_usd={name: 0.01 * size * usd for name, usd in base.items()} if costs else None,
                output_tokens=dict.fromkeys(base, 100 * size) if tokens else None,
            )
        )
    return PreferenceLog(comparisons=rows)


def size_by_hand(artifact: RouterArtifact, prompt: str, sizes: NDArray[np.float64]) -> float:
    """The neighbours' mean size, by the weights of the estimate, three neighbours' worth of it being 1."""
    tier = artifact.best
    settings = tier.settings
    vectors = tier.encoder.encode(prompt).vector[None]
    point = tier.space.place_all(vectors, surface_features_of([prompt]))[0]
    similar = unit_points(tier.vectors).astype(np.float64) @ unit_points(round_points(point[None]))[0]
    nearest = np.argsort(-similar, kind="stable")[: settings.n_neighbors]
    top = similar[nearest[0]]
    w = np.exp((similar[nearest] - top) / settings.temperature)
    w *= np.exp(min(0.0, top - settings.usual_similarity) / settings.far_temperature)
    return float((3.0 + w @ sizes[nearest]) / (3.0 + w.sum()))


PROMPTS = {
    "code": "Fix the parser in my regex script",
    "cooking": "Suggest a dinner of lentils and rice for four people",
}


def test_long_answers_cost_more(scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object) -> None:
    """Without prices a cost is the model's mean, times the size of the answers nearby."""
    artifact, _ = train(with_long_code(scores_log, costs=True), encoder=encoder)
    router, policy = Router(artifact), Policy(route_anyway=True)
    sizes = np.where(np.array([one.intent for one in scores_log.comparisons]) == "code", 3.0, 1.0)
    np.testing.assert_allclose(artifact.best.evidence.sizes, sizes / sizes.mean(), rtol=1e-6)
    costs = {}
    for intent, prompt in PROMPTS.items():
        size = size_by_hand(artifact, prompt, sizes / sizes.mean())
        decision = router.route(prompt, policy)
        costs[intent] = {one.model: one.cost_usd for one in decision.estimates}
        for name, usd in costs[intent].items():
            assert usd == pytest.approx(artifact.profiles[name].mean_cost_usd * size, rel=1e-4)
    assert all(costs["code"][name] > 1.5 * costs["cooking"][name] for name in artifact.models)


def test_long_answers_cost_more_by_the_token(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object
) -> None:
    """With prices only the answer grows, not the prompt."""
    given = {name: ModelProfile(name, 999.0, (Endpoint("e", 2.0, 7.0),)) for name in scores_log.models}
    artifact, _ = train(with_long_code(scores_log, tokens=True), encoder=encoder, profiles=given)
    assert [one.mean_output_tokens for one in artifact.profiles.values()] == pytest.approx([500 / 3] * 3)
    sizes = np.where(np.array([one.intent for one in scores_log.comparisons]) == "code", 3.0, 1.0)
    for prompt in PROMPTS.values():
        size = size_by_hand(artifact, prompt, sizes / sizes.mean())
        wanted = (2.0 * -(-len(prompt) // 4) + 7.0 * 500 / 3 * size) / 1e6
        for one in Router(artifact).route(prompt).estimates:
            assert one.cost_usd == pytest.approx(wanted, rel=1e-4)


def test_far_from_the_log_answers_have_their_mean_size(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object
) -> None:
    artifact, _ = train(with_long_code(scores_log, costs=True), encoder=encoder)
    settings = replace(artifact.best.settings, far_temperature=1e-3)
    far = replace(artifact, tiers=(replace(artifact.best, settings=settings),))
    for one in Router(far).route("zygomorphic quizzical 12345 !!!").estimates:
        assert one.cost_usd == pytest.approx(artifact.profiles[one.model].mean_cost_usd, rel=1e-3)


def test_equal_sizes_leave_the_mean(scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object) -> None:
    artifact, _ = train(priced(scores_log), encoder=encoder)
    assert (artifact.best.evidence.sizes == 1).all()
    for one in Router(artifact).route(PROMPTS["code"]).estimates:
        assert one.cost_usd == pytest.approx(artifact.profiles[one.model].mean_cost_usd, rel=1e-12)


def test_tested_rows_are_expected_to_cost_what_their_neighbours_did(few_configs: None) -> None:
    """The held-out size of a row comes from the others, and from those before it where time counts."""
    table = table_of("scores")
    sizes = (1 + 0.9 * np.sign(PLACE.vectors[:, 0])).astype(np.float32)
    folds = deal_folds(np.arange(N_ROWS), 3, seed=0)

    def fit_of(own: NDArray[np.float32]) -> CrossFit:
        return Selection(table, [PLACE], folds, folds, lambda *_: None, blocks_in_time=BLOCKS, sizes=own).cross_fitted()

    fit = fit_of(sizes)
    expected = fit.prediction.sizes
    assert np.corrcoef(expected, sizes[fit.rows])[0, 1] > 0.4
    later = np.where(BLOCKS >= 2, np.float32(50.0), sizes)
    moved = fit_of(later).prediction.sizes != expected
    np.testing.assert_array_equal(moved, BLOCKS[fit.rows] == 3)
    silent = selection_of(table).cross_fitted()
    np.testing.assert_array_equal(silent.prediction.sizes, 1.0)


def test_unlogged_costs_of_the_report_follow_the_expected_sizes(few_configs: None) -> None:
    table = table_of("scores")
    table = replace(table, costs_usd=np.where(np.arange(N_ROWS)[:, None] % 2, np.nan, table.costs_usd))
    sizes = (1 + 0.9 * np.sign(PLACE.vectors[:, 0])).astype(np.float32)
    folds = deal_folds(np.arange(N_ROWS), 3, seed=0)
    fit = Selection(table, [PLACE], folds, folds, lambda *_: None, blocks_in_time=BLOCKS, sizes=sizes).cross_fitted()
    profiles = {
        name: ModelProfile(name, mean_cost_usd=usd) for name, usd in zip(table.models, COSTS.tolist(), strict=True)
    }
    run = held_out._Run(held_out.Plan(table, np.arange(N_ROWS), BLOCKS, in_time=True), profiles, fit, [])
    wanted = np.where((fit.rows % 2)[:, None], COSTS * fit.prediction.sizes[:, None], COSTS)
    assert run.costs_usd is not None
    np.testing.assert_allclose(run.costs_usd, wanted)


def test_blocks_are_those_of_the_split() -> None:
    """What the tests above call blocks is what train makes of timestamps."""
    np.testing.assert_array_equal(time_blocks(table_of("scores").timestamps, 4), BLOCKS)


def test_comparisons_of_one_prompt_stand_at_its_last_time(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object
) -> None:
    """A prompt asked again word for word is one row as new as its last outcome, which so teaches no earlier block."""
    rows = stamped(scores_log, np.linspace(0, 30, 150)).comparisons
    again = [Comparison(one.prompt, scores=one.scores, timestamp=1e9 + 31 * DAY) for one in rows[:30]]
    log = PreferenceLog(comparisons=[*rows, *again])
    blocks = time_blocks(tabulate(log).timestamps, 5)
    assert (blocks[:30] == 4).all() and (blocks[30:60] == 0).all()
    report = train(log, encoder=encoder)[1]
    assert report.n_prompts == 120 and report.details["n_near_duplicates_of_earlier"] == 0
