"""training/cost.py: what a log tells of lengths and costs, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from router.prompt import Template
from router.types import Endpoint, ModelProfile
from training.comparisons import Comparison, PreferenceLog
from training.cost import answer_sizes, known_output_tokens, learned_profiles, row_sizes
from training.evidence import Table, tabulate

ONE = (Endpoint("default", 2.0, 10.0),)
# 8 and 39 characters: 2 and 10 tokens.
SHORT, LONG = "12345678", "x" * 39


def table_of(
    costs_usd: list[dict[str, float]] | None = None, output_tokens: list[dict[str, float]] | None = None
) -> Table:
    """Return a table of the models a and b, one row per element on SHORT, LONG and further texts of 4 characters."""
    given = costs_usd or output_tokens or [{}, {}]
    costs, tokens = costs_usd or [{}] * len(given), output_tokens or [{}] * len(given)
    texts = [SHORT, LONG, *(f"{n:04}" for n in range(2, len(given)))]
    rows = [
        Comparison(text, scores={"a": 1.0, "b": 0.0}, costs_usd=cost, output_tokens=length)
        for text, cost, length in zip(texts, costs, tokens, strict=True)
    ]
    return tabulate(PreferenceLog(comparisons=rows), template=Template())


def usd(
    input_tokens: float, output_tokens: float, usd_per_mtok_in: float = 2.0, usd_per_mtok_out: float = 10.0
) -> float:
    return (input_tokens * usd_per_mtok_in + output_tokens * usd_per_mtok_out) / 1e6


def test_logged_lengths_come_first() -> None:
    # The costs tell of other lengths, and the price file of a third one.
    table = table_of([{"a": usd(2, 999)}, {"a": usd(10, 999)}], [{"a": 100, "b": 40}, {"a": 300}])
    given = {"a": ModelProfile("a", 5.0, ONE)}
    learned = learned_profiles(table, given)
    assert learned == {"a": ModelProfile("a", 200.0, ONE), "b": ModelProfile("b", 40.0)}
    np.testing.assert_allclose(answer_sizes(table, learned), [[0.5, 1.0], [1.5, np.nan]])


def test_one_logged_length_keeps_lengths_from_costs_out() -> None:
    table = table_of([{"a": usd(2, 999)}, {"a": usd(10, 999)}], [{"a": 100}, {}])
    learned = learned_profiles(table, {"a": ModelProfile("a", endpoints=ONE)})
    assert learned["a"].mean_output_tokens == 100
    np.testing.assert_array_equal(answer_sizes(table, learned)[:, 0], [1.0, np.nan])


def test_costs_and_a_price_give_lengths() -> None:
    # The third answer cost less than its prompt of 1 token alone: a length of 0.
    table = table_of([{"a": usd(2, 50)}, {"a": usd(10, 100)}, {"a": 1e-6}, {}])
    given = {"a": ModelProfile("a", 7.0, ONE)}
    np.testing.assert_allclose(known_output_tokens(table, given)[:, 0], [50, 100, 0, np.nan])
    learned = learned_profiles(table, given)
    assert learned["a"].mean_output_tokens == pytest.approx(50)
    assert learned["a"].mean_cost_usd is None
    assert learned["b"] == ModelProfile("b"), "nothing was said of b"
    np.testing.assert_allclose(answer_sizes(table, learned)[:, 0], [1, 2, 0, np.nan])


def test_lengths_are_what_the_cheapest_endpoint_would_have_charged_for() -> None:
    endpoints = (Endpoint("dear to ask", 50.0, 1.0), Endpoint("dear to answer", 1.0, 20.0))
    profile = ModelProfile("a", endpoints=endpoints)
    for n_short, n_long in ((1, 10), (5, 26), (400, 3000)):
        bills = [replace(profile, mean_output_tokens=n).cost_usd(asked) for n, asked in ((n_short, 2), (n_long, 10))]
        table = table_of([{"a": bill or 0.0} for bill in bills])
        np.testing.assert_allclose(known_output_tokens(table, {"a": profile})[:, 0], [n_short, n_long])


@pytest.mark.parametrize("usd_in", [0.0, 2.0])
def test_output_for_nothing_tells_no_length(usd_in: float) -> None:
    given = {"a": ModelProfile("a", 70.0, (Endpoint("default", usd_in, 0.0),))}
    table = table_of([{"a": usd(2, 0, usd_in)}, {"a": 1e-9}, {"a": 1.0}, {"a": 0.0}])
    assert learned_profiles(table, given)["a"] == given["a"]
    assert np.isnan(answer_sizes(table, learned_profiles(table, given))).all()


def test_an_endpoint_with_free_output_hides_only_the_lengths_for_which_it_is_the_cheapest() -> None:
    endpoints = (Endpoint("flat", 1000.0, 0.0), Endpoint("metered", 2.0, 10.0))
    table = table_of([{"a": usd(2, 50)}, {"a": 10 * 1000 / 1e6}])
    lengths = known_output_tokens(table, {"a": ModelProfile("a", endpoints=endpoints)})
    np.testing.assert_allclose(lengths[:, 0], [50, np.nan])


def test_without_prices_costs_stand_for_sizes() -> None:
    table = table_of([{"a": 0.01, "b": 0.5}, {"a": 0.03}])
    learned = learned_profiles(table, {"b": ModelProfile("b", mean_cost_usd=9.0)})
    assert learned["a"] == ModelProfile("a", mean_cost_usd=pytest.approx(0.02))
    assert learned["b"].mean_cost_usd == 0.5, "the log wins over a mean cost that was given"
    sizes = answer_sizes(table, learned)
    np.testing.assert_allclose(sizes, [[0.5, 1.0], [1.5, np.nan]])
    assert learned["a"].cost_usd(2, sizes[1, 0]) == pytest.approx(0.03)


def test_lengths_of_a_model_without_prices_go_before_its_costs() -> None:
    table = table_of([{"a": 0.01}, {"a": 0.03}], [{"a": 10}, {"a": 10}])
    learned = learned_profiles(table, {})
    assert (learned["a"].mean_output_tokens, learned["a"].mean_cost_usd) == (10.0, pytest.approx(0.02))
    assert answer_sizes(table, learned)[:, 0].tolist() == [1.0, 1.0]


def test_a_silent_log_leaves_the_profiles_as_they_were_given() -> None:
    given = {"a": ModelProfile("a", 70.0, ONE), "unheard of": ModelProfile("unheard of", 1.0, ONE)}
    learned = learned_profiles(table_of(), given)
    assert learned == {"a": given["a"], "b": ModelProfile("b")}
    assert np.isnan(answer_sizes(table_of(), learned)).all()


@pytest.mark.parametrize("table", [table_of(output_tokens=[{"a": 0}, {"a": 0}]), table_of([{"a": 0.0}, {"a": 0.0}])])
def test_answers_of_no_size_have_none_beside_their_mean(table: Table) -> None:
    assert np.isnan(answer_sizes(table, learned_profiles(table, {}))).all()


def test_sizes_on_other_rows_are_beside_the_learned_mean() -> None:
    learned = learned_profiles(table_of(output_tokens=[{"a": 100}, {"a": 300}]), {})
    assert answer_sizes(table_of(output_tokens=[{"a": 400}, {"a": 50}]), learned)[:, 0].tolist() == [2.0, 0.25]


def test_sizes_lead_back_to_the_costs() -> None:
    bills = [usd(2, 50), usd(10, 100)]
    table = table_of([{"a": bill} for bill in bills])
    learned = learned_profiles(table, {"a": ModelProfile("a", endpoints=ONE)})
    sizes = answer_sizes(table, learned)[:, 0]
    again = [learned["a"].cost_usd(asked, size) for asked, size in zip((2, 10), sizes, strict=True)]
    np.testing.assert_allclose(again, bills)


def test_a_cost_beyond_all_numbers_tells_nothing() -> None:
    table = table_of([{"a": 1e305}, {"a": usd(10, 100)}])
    np.testing.assert_allclose(known_output_tokens(table, {"a": ModelProfile("a", endpoints=ONE)})[:, 0], [np.nan, 100])


def test_the_size_of_a_row_is_the_mean_of_its_known_answers() -> None:
    # a's mean is 200, b's is 40: each answer counts beside its own model's mean.
    table = table_of(output_tokens=[{"a": 100, "b": 60}, {"a": 300}, {"b": 20}, {}])
    sizes = row_sizes(table, learned_profiles(table, {}))
    assert sizes.dtype == np.float32 and sizes.tolist() == [1.0, 1.5, 0.5, 1.0]


def test_the_size_of_a_row_may_be_nothing() -> None:
    table = table_of(output_tokens=[{"a": 0, "b": 0}, {"a": 10, "b": 10}])
    assert row_sizes(table, learned_profiles(table, {})).tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    "table", [table_of(), table_of([{"a": 0.0}, {"a": 0.0}]), table_of(output_tokens=[{"a": 70}, {"b": 5}])]
)
def test_rows_of_which_nothing_is_known_or_that_are_all_alike_have_size_one(table: Table) -> None:
    assert row_sizes(table, learned_profiles(table, {})).tolist() == [1.0, 1.0]


def test_sizes_of_rows_from_costs_with_and_without_a_price() -> None:
    # a has a price: 50 and 150 tokens; b has none: its costs stand for sizes.
    table = table_of([{"a": usd(2, 50), "b": 0.3}, {"a": usd(10, 150), "b": 0.1}])
    learned = learned_profiles(table, {"a": ModelProfile("a", endpoints=ONE)})
    np.testing.assert_allclose(row_sizes(table, learned), [(0.5 + 1.5) / 2, (1.5 + 0.5) / 2])
    only_a = table_of([{"a": usd(2, 50)}, {"a": usd(10, 150)}])
    np.testing.assert_allclose(row_sizes(only_a, learned_profiles(only_a, learned)), [0.5, 1.5], rtol=1e-6)
