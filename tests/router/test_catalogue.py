"""router/catalogue.py: profiles as arrays say the same as the profiles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.catalogue import Catalogue
from router.types import Endpoint, ModelProfile

amounts = st.none() | st.floats(0, 100)
endpoints = st.builds(Endpoint, st.just("e"), amounts, amounts, amounts, amounts, st.none() | st.floats(1, 300))
profiles = st.builds(
    ModelProfile,
    st.just("m"),
    mean_output_tokens=st.floats(1, 1_000),
    endpoints=st.lists(endpoints, max_size=3).map(tuple),
    mean_cost_usd=amounts,
)


@given(st.lists(profiles, min_size=1, max_size=4), st.integers(0, 10_000), st.floats(0, 5))
def test_the_cheapest_of_a_row_is_what_the_profile_says(
    owned: list[ModelProfile], input_tokens: int, size: float
) -> None:
    names = [f"m{number}" for number in range(len(owned))]
    catalogue = Catalogue(names, dict(zip(names, owned, strict=True)))
    table = catalogue.costs_usd(input_tokens, size)
    for own, row in zip(owned, table.tolist(), strict=True):
        wanted = own.cost_usd(input_tokens, size)
        known = [one for one in row if not np.isnan(one)]
        assert (min(known) if known else None) == (None if wanted is None else pytest.approx(wanted))
    assert catalogue.has_prices == any(one.is_priced or one.mean_cost_usd is not None for one in owned)


def test_the_time_of_an_answer_is_until_the_first_token_and_the_writing_of_the_rest() -> None:
    ends = (
        Endpoint("both", latency_p50_ms=100.0, latency_p95_ms=900.0, tokens_per_s=50.0),
        Endpoint("whole answers", latency_p50_ms=100.0),
        Endpoint("only the slow ones known", latency_p95_ms=900.0, tokens_per_s=50.0),
        Endpoint("speed alone", tokens_per_s=50.0),
    )
    catalogue = Catalogue(["m"], {"m": ModelProfile("m", 200.0, ends)})
    np.testing.assert_allclose(catalogue.latencies_ms(), [[4_100.0, 100.0, 4_900.0, np.nan]])
    np.testing.assert_allclose(catalogue.latencies_ms(0.5), [[2_100.0, 100.0, 2_900.0, np.nan]])
    assert catalogue.has_latencies


def test_what_an_endpoint_leaves_out_is_its_models() -> None:
    ends = (Endpoint("own", locality="remote", region="us"), Endpoint("silent"))
    catalogue = Catalogue(["m", "n"], {"m": ModelProfile("m", endpoints=ends, locality="local", region="eu")})
    assert catalogue.regions == (("us", "eu"), (None,))
    assert catalogue.is_local.tolist() == [[False, True], [False, False]]
    assert catalogue.knows_locality.tolist() == [[True, True], [False, False]]


def test_models_without_a_profile_are_unknown_and_profiles_without_a_model_are_left_out() -> None:
    catalogue = Catalogue(["known", "unheard of"], {"known": ModelProfile("known"), "other": ModelProfile("other")})
    assert catalogue.models == ("known", "unheard of")
    assert catalogue.exists.tolist() == [[True], [True]]
    assert not (catalogue.has_prices or catalogue.has_latencies or catalogue.knows_context)
    assert np.isnan(catalogue.costs_usd(100)).all() and np.isnan(catalogue.latencies_ms()).all()
    assert np.isinf(catalogue.context_tokens).all()


def test_one_priced_endpoint_is_enough_for_the_log_to_say_nothing_of_costs() -> None:
    ends = (Endpoint("priced", 1.0, 2.0), Endpoint("unpriced"))
    catalogue = Catalogue(
        ["both", "log"],
        {
            "both": ModelProfile("both", 100.0, ends, mean_cost_usd=5.0),
            "log": ModelProfile("log", 100.0, (Endpoint("unpriced"),), mean_cost_usd=5.0),
        },
    )
    np.testing.assert_allclose(catalogue.costs_usd(1_000, 2.0), [[0.0014, np.nan], [10.0, np.nan]])
