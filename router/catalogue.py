"""All endpoints of an artifact's models side by side, so that a request is priced and checked in a few operations."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from router.types import Endpoint, ModelProfile

Table = NDArray[np.float64]
"""float64 (n_models, n_endpoints), a model's endpoints in the order of its profile; NaN is unknown."""


class Catalogue:
    """Profiles as arrays, (n_models, n_endpoints), as wide as the model with most endpoints has them.

    exists: bool, False where a model has fewer. A model without any has one of which nothing is known but, perhaps,
    the mean cost in the log. uptimes: 0..1. is_local, knows_locality: bool. regions: by place. context_tokens: float64
    (n_models,), infinite where unknown. has_prices, has_latencies, knows_context: whether any is known. sees_length:
    whether any of these is, so that the length of prompt or answer means something. rows, first_endpoints, nothing:
    0, 1, 2 ..., zeros as places and zeros as amounts, (n_models,), made once for all.
    """

    def __init__(self, models: Sequence[str], profiles: Mapping[str, ModelProfile]) -> None:
        """models: those that can be chosen; a profile of another one is left out, a model without one is unknown."""
        self.profiles = tuple(profiles.get(name, ModelProfile(name)) for name in models)
        self.models = tuple(models)
        self.endpoints = tuple(one.endpoints or (Endpoint(""),) for one in self.profiles)
        self.exists = np.arange(max(map(len, self.endpoints)))[None, :] < [[len(own)] for own in self.endpoints]
        self.uptimes = self._table(lambda one, _: one.uptime)
        self.is_local = self._table(lambda one, own: (one.locality or own.locality) == "local") == 1.0
        self.knows_locality = self._table(lambda one, own: (one.locality or own.locality) is not None) == 1.0
        self.regions = tuple(
            tuple(one.region or own.region for one in ends)
            for own, ends in zip(self.profiles, self.endpoints, strict=True)
        )
        self.context_tokens = np.array([float(one.context_tokens or np.inf) for one in self.profiles])
        self._output_tokens = np.array([[one.mean_output_tokens] for one in self.profiles])
        self._usd_in = self._table(lambda one, _: one.usd_per_mtok_in) / 1e6
        self._usd_out = self._table(lambda one, _: one.usd_per_mtok_out) / 1e6 * self._output_tokens
        unpriced = np.isnan(self._usd_in) | np.isnan(self._usd_out)
        mean_usd = self._table(lambda _, own: own.mean_cost_usd)
        # Where no endpoint of a model has a price, its mean cost in the log is that of any.
        of_log = unpriced & unpriced.all(axis=1, keepdims=True)
        self._usd_in = np.where(of_log & ~np.isnan(mean_usd), 0.0, self._usd_in)
        self._usd_out = np.where(of_log, mean_usd, self._usd_out)
        self._first_ms = self._table(lambda one, _: _or(one.latency_p50_ms, one.latency_p95_ms))
        per_s = self._table(lambda one, _: one.tokens_per_s or None)
        self._writing_ms = np.where(np.isnan(per_s), 0.0, 1e3 * self._output_tokens / per_s)
        self.has_prices = not bool(np.isnan(self._usd_in + self._usd_out).all())
        self.has_latencies = not bool(np.isnan(self._first_ms).all())
        self.knows_context = bool(np.isfinite(self.context_tokens).any())
        self.sees_length = self.has_prices or self.has_latencies or self.knows_context
        self._unknown = np.full(self.exists.shape, np.nan)
        self.rows = np.arange(len(self.models))
        self.first_endpoints = np.zeros(len(self.models), dtype=np.int64)
        self.nothing = np.zeros(len(self.models))

    def costs_usd(self, input_tokens: int, relative_size: float = 1.0) -> Table:
        """Return the expected USD of an answer. relative_size: of the answer, in units of its model's mean."""
        if not self.has_prices:
            return self._unknown
        return np.asarray(self._usd_in * input_tokens + self._usd_out * relative_size)

    def latencies_ms(self, relative_size: float = 1.0) -> Table:
        """Return the expected time of a whole answer, from its endpoint's latency and speed."""
        if not self.has_latencies:
            return self._unknown
        return np.asarray(self._first_ms + self._writing_ms * relative_size)

    def output_tokens(self, relative_size: float = 1.0) -> NDArray[np.float64]:
        """Return the expected length of an answer: float64 (n_models,)."""
        return np.asarray(self._output_tokens[:, 0] * relative_size)

    def _table(self, read: Callable[[Endpoint, ModelProfile], float | None]) -> Table:
        """Return one value per endpoint, NaN where it is None or there is no endpoint."""
        table = np.full(self.exists.shape, np.nan)
        for row, (own, ends) in enumerate(zip(self.profiles, self.endpoints, strict=True)):
            for place, one in enumerate(ends):
                value = read(one, own)
                table[row, place] = np.nan if value is None else float(value)
        return table


def _or(first: float | None, second: float | None) -> float | None:
    return second if first is None else first
