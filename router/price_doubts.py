"""Published prices that are not to be believed: which, by what rule, and what was found."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, median_high, median_low

from router.published_catalogue import Offer

MAX_USD_PER_MTOK_IN = 200.0
# Writing a token costs a provider at least what reading one does; half leaves room for a sale.
LEAST_OUTPUT_SHARE = 0.5
MOST_OUTPUT_TIMES = 25.0
FAR = 10.0
MIN_OTHER_PROVIDERS = 2
CODES: Mapping[str, str] = {
    "not_a_number": "a price is no finite number",
    "negative_price": "a price is below 0",
    "half_a_price": "only one of the two prices is given",
    "per_request_fee": "every request costs something besides its tokens",
    "above_200_usd": f"more than {MAX_USD_PER_MTOK_IN:g} USD per million input tokens",
    "zero_price": "0 at a provider that charges for other models, or for a model that other providers charge for",
    "output_below_input": f"output below {LEAST_OUTPUT_SHARE:g} of the input price",
    "output_far_above_input": f"output above {MOST_OUTPUT_TIMES:g} times the input price",
    "far_from_median": f"more than {FAR:g} times, or less than 1/{FAR:g} of, the median of the same model elsewhere",
}


@dataclass(frozen=True, slots=True)
class PriceDoubt:
    """Why a published price is left out. key: of the offer. code: of CODES. detail: what was found, for people."""

    key: str
    code: str
    detail: str


def price_doubts(offers: Sequence[Offer]) -> dict[str, PriceDoubt]:
    """Return the first doubt about every offer with a doubtful price, by key, in the order of CODES.

    Medians are over the other providers of the same model, one price each, at least MIN_OTHER_PROVIDERS, without prices
    that are doubtful by themselves.
    """
    doubts = {one.key: doubt for one in offers if (doubt := _alone(one)) is not None}
    charging = {one.provider for one in offers if one.key not in doubts and (one.usd_per_mtok_in or 0) > 0}
    medians = _Medians([one for one in offers if one.key not in doubts and (one.usd_per_mtok_in or 0) > 0])
    for one in offers:
        if one.key in doubts or one.usd_per_mtok_in is None or one.usd_per_mtok_out is None:
            continue
        doubt = _beside_others(one, charging, medians)
        if doubt is not None:
            doubts[one.key] = doubt
    return doubts


def count_by_code(doubts: Mapping[str, PriceDoubt]) -> dict[str, int]:
    """Return how many offers each code was found at, all codes, in their order."""
    counts = Counter(one.code for one in doubts.values())
    return {code: counts[code] for code in CODES}


class _Medians:
    """Prices of each model by provider: the median of a provider's own, so that its regions count once."""

    def __init__(self, offers: Sequence[Offer]) -> None:
        self._prices: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for one in offers:
            if one.usd_per_mtok_in is not None and one.usd_per_mtok_out is not None:
                prices = self._prices.setdefault(one.identity, {}).setdefault(one.provider, [])
                prices.append((one.usd_per_mtok_in, one.usd_per_mtok_out))

    def elsewhere(self, one: Offer) -> tuple[list[float], list[float]] | None:
        """Return the prices of input and of output, one per other provider, or None where these are few."""
        others = [prices for provider, prices in self._prices.get(one.identity, {}).items() if provider != one.provider]
        if len(others) < MIN_OTHER_PROVIDERS:
            return None
        return [median(usd for usd, _ in prices) for prices in others], [
            median(usd for _, usd in prices) for prices in others
        ]


def _alone(one: Offer) -> PriceDoubt | None:
    """Return what is doubtful about a price by itself."""
    usd_in, usd_out = one.usd_per_mtok_in, one.usd_per_mtok_out
    given = [usd for usd in (usd_in, usd_out) if usd is not None]
    if not given:
        return None
    found = f"{_shown(usd_in)} in and {_shown(usd_out)} out per million tokens"
    if not all(math.isfinite(usd) for usd in given):
        return PriceDoubt(one.key, "not_a_number", f"{found}: no numbers")
    if min(given) < 0:
        return PriceDoubt(one.key, "negative_price", f"{found}: below 0")
    if usd_in is None or usd_out is None:
        return PriceDoubt(one.key, "half_a_price", f"{found}: half of it is missing")
    if one.per_request:
        return PriceDoubt(
            one.key, "per_request_fee", f"{found}, and a fee per request, which is not in a price of tokens"
        )
    if usd_in > MAX_USD_PER_MTOK_IN:
        detail = f"{found}: more than {MAX_USD_PER_MTOK_IN:g} USD in, as if of another unit"
        return PriceDoubt(one.key, "above_200_usd", detail)
    if usd_in == 0 < usd_out:
        return PriceDoubt(one.key, "zero_price", f"{found}: reading is free, writing is not")
    if usd_out < LEAST_OUTPUT_SHARE * usd_in:
        detail = f"{found}: output costs less than {LEAST_OUTPUT_SHARE:g} of input, as if swapped or left out"
        return PriceDoubt(one.key, "output_below_input", detail)
    if usd_out > MOST_OUTPUT_TIMES * usd_in:
        return PriceDoubt(
            one.key, "output_far_above_input", f"{found}: output costs {usd_out / usd_in:.3g} times input"
        )
    return None


def _beside_others(one: Offer, charging: set[str], medians: _Medians) -> PriceDoubt | None:
    """Return what is doubtful about a price beside the provider's other models, and the model's other providers."""
    usd_in, usd_out = one.usd_per_mtok_in or 0.0, one.usd_per_mtok_out or 0.0
    found = f"{_shown(usd_in)} in and {_shown(usd_out)} out per million tokens"
    if usd_in == 0 and one.is_local:
        return None
    if usd_in == 0 and one.provider in charging:
        return PriceDoubt(one.key, "zero_price", f"{found}: {one.provider} charges for other models")
    elsewhere = medians.elsewhere(one)
    if elsewhere is None:
        return None
    usual_in, usual_out = elsewhere
    medians_shown = f"{_shown(median(usual_in))} in and {_shown(median(usual_out))} out"
    beside = f"the median of {len(usual_in)} other providers is {medians_shown}"
    if usd_in == 0:
        return PriceDoubt(one.key, "zero_price", f"{found}: {beside}")
    for usd, usual in ((usd_in, usual_in), (usd_out, usual_out)):
        # Of an even number, the middle two: between a right price and a wrong one, their mean would suspect both.
        if all(not middle / FAR <= usd <= middle * FAR for middle in (median_low(usual), median_high(usual))):
            return PriceDoubt(one.key, "far_from_median", f"{found}: {beside}")
    return None


def _shown(usd: float | None) -> str:
    return "nothing" if usd is None else f"{usd:.6g} USD"
