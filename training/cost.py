"""What the log tells of the cost of answers: the models' learned means, and each answer's size beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from router.types import Endpoint, ModelProfile
from training.evidence import Table


def learned_profiles(table: Table, given: Mapping[str, ModelProfile]) -> dict[str, ModelProfile]:
    """Return a profile per model of the table: the prices given, with the means that the log shows.

    mean_output_tokens is the mean of ``known_output_tokens``; where the log shows none, it is the given one.
    mean_cost_usd of a model without endpoints is the mean of its logged costs. What the log shows wins over a mean
    that was given, a mean_output_tokens that a person wrote into the price file included: it was measured.
    """
    tokens = known_output_tokens(table, given)
    out = {}
    for column, name in enumerate(table.models):
        profile = given.get(name, ModelProfile(name))
        lengths, costs = tokens[:, column], table.costs_usd[:, column]
        if not np.isnan(lengths).all():
            profile = replace(profile, mean_output_tokens=float(np.nanmean(lengths)))
        if not profile.is_priced and not np.isnan(costs).all():
            profile = replace(profile, mean_cost_usd=float(np.nanmean(costs)))
        out[name] = profile
    return out


def known_output_tokens(table: Table, profiles: Mapping[str, ModelProfile]) -> NDArray[np.float64]:
    """Return the length of each answer in tokens: float64 (n_rows, n_models), NaN where unknown.

    A model's lengths are those in the log or, where the log has none of this model, what its logged costs and its
    prices say. The two are not mixed within a model: prices of another day would shift one against the other.
    """
    input_tokens = table.input_tokens.astype(np.float64)
    tokens = table.output_tokens.copy()
    for column, name in enumerate(table.models):
        if name in profiles and np.isnan(tokens[:, column]).all():
            tokens[:, column] = _paid_for(table.costs_usd[:, column], input_tokens, profiles[name].endpoints)
    return tokens


def answer_sizes(table: Table, profiles: Mapping[str, ModelProfile]) -> NDArray[np.float64]:
    """Return each known answer's size in units of its model's mean: float64 (n_rows, n_models), NaN where unknown.

    Sizes are ``known_output_tokens`` beside mean_output_tokens or, for a model without endpoints whose lengths are
    unknown, logged costs beside mean_cost_usd: what ``ModelProfile.cost_usd`` takes as ``relative_size``. A model
    whose mean is 0 has no sizes.

    profiles: one per model, from ``learned_profiles``; on the table that they were learned from, the mean size of
    every model is 1.
    """
    sizes = known_output_tokens(table, profiles)
    means = np.array([profiles[name].mean_output_tokens for name in table.models])
    for column, name in enumerate(table.models):
        profile = profiles[name]
        if not profile.is_priced and profile.mean_cost_usd is not None and np.isnan(sizes[:, column]).all():
            sizes[:, column], means[column] = table.costs_usd[:, column], profile.mean_cost_usd
    return np.asarray(np.divide(sizes, means, out=np.full_like(sizes, np.nan), where=means > 0))


def row_sizes(table: Table, profiles: Mapping[str, ModelProfile]) -> NDArray[np.float32]:
    """Return how large each row's answers are in units of their models' means: float32 (n_rows,), 1 where unknown.

    The mean over the row's known answers: how long an answer is depends on the prompt more than on the model, once the
    model's own mean is taken away.
    """
    sizes = answer_sizes(table, profiles)
    known = ~np.isnan(sizes)
    total = np.where(known, sizes, 0.0).sum(axis=1)
    count = known.sum(axis=1)
    mean = np.divide(total, count, out=np.ones(len(sizes)), where=count > 0)
    return np.asarray(mean, dtype=np.float32)


def expected_costs(
    table: Table, profiles: Mapping[str, ModelProfile], sizes: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return every model's expected USD on every row: float64 (n_rows, n_models), NaN where unknown.

    sizes: float64 (n_rows,), how large the answers are in units of their models' means; 1 when left out.
    """
    wanted = np.ones(len(table)) if sizes is None else sizes
    out = np.full((len(table), len(table.models)), np.nan)
    for row, (n_tokens, size) in enumerate(zip(table.input_tokens.tolist(), wanted.tolist(), strict=True)):
        for column, name in enumerate(table.models):
            cost = profiles[name].cost_usd(n_tokens, size)
            out[row, column] = np.nan if cost is None else cost
    return out


def _paid_for(
    costs_usd: NDArray[np.float64], input_tokens: NDArray[np.float64], endpoints: Sequence[Endpoint]
) -> NDArray[np.float64]:
    """Return how long the answers were that cost this much at the cheapest endpoint, NaN where that cannot be told.

    Costs are the least over the endpoints, and grow with the length at each, so that the length is the greatest of
    those that the endpoints would have given for the money. At least 0: real token counts differ from ours.

    costs_usd, input_tokens, and the result: float64 (n_rows,).
    """
    prices = [
        (one.usd_per_mtok_in, one.usd_per_mtok_out)
        for one in endpoints
        if one.usd_per_mtok_in is not None and one.usd_per_mtok_out is not None
    ]
    if not prices:
        return np.full_like(costs_usd, np.nan)
    usd_in, usd_out = np.array(prices).T
    # Where the cheapest endpoint charges nothing for output, any length costs the same: infinite, or NaN for 0 / 0.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        left = costs_usd[:, None] * 1e6 - input_tokens[:, None] * usd_in
        tokens = (left / usd_out).max(axis=1)
    return np.where(np.isfinite(tokens), np.clip(tokens, 0.0, None), np.nan)
