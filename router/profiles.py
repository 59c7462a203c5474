"""What models cost, can do and where they run: reading profile files, and laying them over what a log taught."""

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from router.errors import ConfigError
from router.marked import Marked, marked, read_marked
from router.needs import count_tokens
from router.types import LOCALITIES, Endpoint, JsonObject, ModelProfile

# What a request can imply or a policy commonly asks for; other names are taken, unless they look like one of these.
CAPABILITIES = ("audio", "files", "json", "reasoning", "tools", "vision")
# What a model reads besides what follows from it.
MODALITIES: Mapping[str, str | None] = {
    "text": None,
    "image": "vision",
    "audio": "audio",
    "video": None,
    "pdf": "files",
    "file": "files",
}
MAX_AMOUNT = 1e12
MAX_NAMES = 64
MAX_ENDPOINTS = 256
MAX_NAME_CHARS = 512
_OLD_PRICES = {"input_price": "usd_per_mtok_in", "output_price": "usd_per_mtok_out"}
_ENDPOINT_AMOUNTS = ("usd_per_mtok_in", "usd_per_mtok_out", "latency_p50_ms", "latency_p95_ms")
_ENDPOINT_KEYS = (*(one.name for one in fields(Endpoint)), "latency_ms")
_MODEL_KEYS = (
    *(one.name for one in fields(ModelProfile) if one.name != "name"),
    *("usd_per_mtok_in", "usd_per_mtok_out"),
)


@dataclass(frozen=True, slots=True, eq=False)
class GivenProfiles(Mapping[str, ModelProfile]):
    """Profiles by model, as a file gives them; equal to any mapping of the same profiles.

    said: by model, which fields of ModelProfile the file says; the others hold defaults.
    """

    profiles: Mapping[str, ModelProfile]
    said: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> ModelProfile:
        return self.profiles[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.profiles)

    def __len__(self) -> int:
        return len(self.profiles)


def read_profiles(path: str | Path) -> GivenProfiles:
    """Read a YAML or JSON file of profiles by model; docs/profiles.md describes it.

    Files of prices alone, {model: {usd_per_mtok_in, usd_per_mtok_out}}, and LLMRouter's candidate files, {model:
    {input_price, output_price}}, in USD per million tokens, are read as well.
    In training a mean_output_tokens yields to what the log shows (training/cost.py).

    Raises:
        ConfigError: the file cannot be read (see ``read_marked``), a key is unknown or there twice, or a value is not
            what the key wants; the line is named.
    """
    return _given(read_marked(path), strict=True)


def profiles_from_json(raw: Any, where: str) -> dict[str, ModelProfile]:
    """Read parsed profiles, in the form of ``read_profiles`` or of ``profiles_to_json``; unknown keys are passed over.

    Raises:
        ConfigError: a value is not what its key wants.
    """
    return dict(_given(marked(raw, where), strict=False))


def merged(base: Mapping[str, ModelProfile], given: Mapping[str, ModelProfile]) -> dict[str, ModelProfile]:
    """Lay given profiles over others, field by field: what a file does not say stays; its endpoints replace the others.

    Modalities that are given without capabilities decide what follows from them (vision, audio, files) and leave the
    other capabilities as they are. A profile that was not read from a file is taken whole.
    """
    said = given.said if isinstance(given, GivenProfiles) else {}
    out = dict(base)
    for name, profile in given.items():
        out[name] = _laid_over(base[name], profile, said[name]) if name in base and name in said else profile
    return out


def expected_costs_usd(
    profiles: Mapping[str, ModelProfile], models: Sequence[str], text: str, relative_size: float = 1.0
) -> NDArray[np.float64]:
    """Return every model's expected USD for an answer to ``text``: float64 (n_models,), NaN where unknown.

    relative_size: how large answers to ``text`` are, in units of their models' means.
    """
    input_tokens = count_tokens(text)
    costs = [profiles[one].cost_usd(input_tokens, relative_size) if one in profiles else None for one in models]
    return np.array([math.nan if one is None else one for one in costs])


def profiles_to_json(profiles: Mapping[str, ModelProfile]) -> JsonObject:
    """Return what ``profiles_from_json`` reads, without what is unknown."""
    always = ("mean_output_tokens", "mean_cost_usd")
    out = {}
    for name, one in profiles.items():
        values = {key: getattr(one, key) for key in _MODEL_KEYS if hasattr(one, key) and key != "endpoints"}
        out[name] = {
            **{key: _plain(value) for key, value in values.items() if key in always or value not in (None, ())},
            # Nothing it can do is knowledge, too.
            **({"capabilities": []} if one.capabilities == () else {}),
            **({"modalities": []} if one.modalities == () else {}),
            "endpoints": [_endpoint_json(end) for end in one.endpoints],
        }
    return out


def implied_capabilities(modalities: Iterable[str]) -> set[str]:
    """Return the capabilities that follow from what a model reads."""
    return {follows for one in modalities if (follows := MODALITIES.get(one)) is not None}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _endpoint_json(one: Endpoint) -> JsonObject:
    values = {each.name: getattr(one, each.name) for each in fields(Endpoint)}
    return {key: value for key, value in values.items() if value is not None}


def _laid_over(base: ModelProfile, given: ModelProfile, said: frozenset[str]) -> ModelProfile:
    changes = {name: getattr(given, name) for name in said}
    if "modalities" in said and "capabilities" not in said and given.modalities is not None:
        follow = {one for one in MODALITIES.values() if one is not None}
        kept = set(base.capabilities or ()) - follow
        changes["capabilities"] = tuple(sorted(kept | implied_capabilities(given.modalities)))
    return replace(base, **changes)


def _given(root: Marked, *, strict: bool) -> GivenProfiles:
    if not isinstance(root.value, dict) or not root.value:
        raise ConfigError(f"{root.where}: expected a mapping of model names to profiles, got {root.shown}")
    profiles, said = {}, {}
    for name, entry in root.value.items():
        _check_name(name, entry.where, "a model's name")
        profiles[name], said[name] = _Reader(name, strict).profile(entry)
    return GivenProfiles(profiles, said)


def _check_name(text: Any, where: str, what: str) -> str:
    if not isinstance(text, str) or not text.strip() or not text.isprintable() or len(text) > MAX_NAME_CHARS:
        got = repr(text) if len(str(text)) <= MAX_NAME_CHARS else f"{len(str(text)):,} characters"
        raise ConfigError(f"{where}: expected {what}, a printable text of 1 to {MAX_NAME_CHARS} characters, got {got}")
    return text


class _Reader:
    """Reads one model's profile. strict: unknown keys, and endpoints of one name, are errors."""

    def __init__(self, model: str, strict: bool) -> None:
        self._model = model
        self._strict = strict

    def profile(self, entry: Marked) -> tuple[ModelProfile, frozenset[str]]:
        """Return the profile, and which of its fields are said."""
        raw = entry.value
        if not isinstance(raw, dict):
            _refuse(entry, self._model, f"a mapping, of {', '.join(_MODEL_KEYS)}")
        if not raw:
            raise ConfigError(
                f"{entry.where}: {self._model}: no price, nor anything else; expected some of {', '.join(_MODEL_KEYS)}"
            )
        given = _renamed(raw)
        if not _OLD_PRICES.keys() & raw.keys():  # LLMRouter's files describe a model in their own words, too
            self._check_keys(given, _MODEL_KEYS, self._model)
        out: dict[str, Any] = {}
        readers: Mapping[str, Callable[[Marked, str], Any]] = {
            "mean_output_tokens": _amount,
            "mean_cost_usd": _amount_or_none,
            "gateway_model": lambda one, at: None if one.value is None else _text(one, at),
            "capabilities": self._capabilities,
            "modalities": self._modalities,
            "context_tokens": _context,
            "roles": lambda one, at: self._names(one, at) or (),
            "locality": _locality,
            "region": lambda one, at: None if one.value is None else _text(one, at),
        }
        for key, read in readers.items():
            if key in given:
                out[key] = read(given[key], f"{self._model}.{key}")
        if "endpoints" in given or "usd_per_mtok_in" in given or "usd_per_mtok_out" in given:
            out["endpoints"] = self._endpoints(given)
        said = frozenset(out)
        if out.get("modalities") is not None:
            implied = implied_capabilities(out["modalities"])
            out["capabilities"] = tuple(sorted(implied.union(out.get("capabilities") or ())))
        return ModelProfile(self._model, **out), said

    def _endpoints(self, given: Mapping[str, Marked]) -> tuple[Endpoint, ...]:
        prices = {key: given[key] for key in ("usd_per_mtok_in", "usd_per_mtok_out") if key in given}
        if "endpoints" not in given:
            return (self._endpoint(prices, self._model, next(iter(prices.values())).where),)
        raw, at = given["endpoints"], f"{self._model}.endpoints"
        if prices:
            key, price = next(iter(prices.items()))
            raise ConfigError(
                f"{price.where}: {self._model}.{key}: expected it in one of the endpoints, which are given"
            )
        if not isinstance(raw.value, list):
            _refuse(raw, at, "a list of objects")
        if len(raw.value) > MAX_ENDPOINTS:
            raise ConfigError(f"{raw.where}: {at}: expected at most {MAX_ENDPOINTS}, got {len(raw.value):,}")
        endpoints: dict[str, str] = {}
        out = []
        for place, one in enumerate(raw.value):
            if not isinstance(one.value, dict):
                _refuse(one, f"{at}[{place}]", f"an object, of {', '.join(_ENDPOINT_KEYS)}")
            fields_given = _renamed(one.value)
            self._check_keys(fields_given, _ENDPOINT_KEYS, f"{at}[{place}]")
            end = self._endpoint(fields_given, f"{at}[{place}]", one.where)
            if self._strict and end.name in endpoints:
                raise ConfigError(
                    f"{one.where}: {at}[{place}]: a second endpoint is named {end.name}, as at {endpoints[end.name]}; "
                    "expected a name of its own"
                )
            endpoints[end.name] = one.where
            out.append(end)
        return tuple(out)

    def _endpoint(self, given: Mapping[str, Marked], at: str, where: str) -> Endpoint:
        given = _flat_latency(given, at, self._strict)
        known = {key: one for key, one in given.items() if one.value is not None}
        out: dict[str, Any] = {key: _amount(known[key], f"{at}.{key}") for key in _ENDPOINT_AMOUNTS if key in known}
        for key, other in (("usd_per_mtok_in", "usd_per_mtok_out"), ("usd_per_mtok_out", "usd_per_mtok_in")):
            if key in known and other not in known:
                raise ConfigError(f"{where}: {at}: {other} is missing, expected it beside {key}")
        p50, p95 = out.get("latency_p50_ms"), out.get("latency_p95_ms")
        if p50 is not None and p95 is not None and p95 < p50:
            raise ConfigError(
                f"{known['latency_p95_ms'].where}: {at}: latency_p95_ms {p95:g} is below latency_p50_ms {p50:g}, "
                "expected at least as much"
            )
        if "tokens_per_s" in known:
            out["tokens_per_s"] = _amount(known["tokens_per_s"], f"{at}.tokens_per_s")
            if out["tokens_per_s"] == 0:
                _refuse(known["tokens_per_s"], f"{at}.tokens_per_s", "a number above 0")
        if "uptime" in known:
            out["uptime"] = _amount(known["uptime"], f"{at}.uptime")
            if out["uptime"] > 1:
                _refuse(known["uptime"], f"{at}.uptime", "a share from 0 to 1 (0.999 for 99.9 %)")
        if "locality" in known:
            out["locality"] = _locality(known["locality"], f"{at}.locality")
        if "region" in known:
            out["region"] = _text(known["region"], f"{at}.region")
        return Endpoint(_text(known["name"], f"{at}.name") if "name" in known else "default", **out)

    def _check_keys(self, given: Mapping[str, Marked], known: Sequence[str], at: str) -> None:
        for key, one in given.items():
            if self._strict and key not in known:
                near = difflib.get_close_matches(key[:64], known, 1)
                hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
                raise ConfigError(f"{one.where}: {at}: unknown key {key[:64]!r}, {hint}")

    def _names(self, given: Marked, at: str) -> tuple[str, ...] | None:
        """Return names without repeats, in the order of the file."""
        if given.value is None:
            return None
        if not isinstance(given.value, list):
            _refuse(given, at, "a list of names")
        if len(given.value) > MAX_NAMES:
            raise ConfigError(f"{given.where}: {at}: expected at most {MAX_NAMES} names, got {len(given.value):,}")
        return tuple(dict.fromkeys(_text(one, at) for one in given.value))

    def _capabilities(self, given: Marked, at: str) -> tuple[str, ...] | None:
        names = self._names(given, at)
        for name in names or ():
            near = difflib.get_close_matches(name[:64], CAPABILITIES, 1, cutoff=0.8)
            if self._strict and near and name not in CAPABILITIES:
                raise ConfigError(f"{given.where}: {at}: unknown capability {name!r}, did you mean {near[0]}?")
        return None if names is None else tuple(sorted(names))

    def _modalities(self, given: Marked, at: str) -> tuple[str, ...] | None:
        names = self._names(given, at)
        for name in names or ():
            if name not in MODALITIES:
                near = difflib.get_close_matches(name[:64], tuple(MODALITIES), 1)
                hint = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(MODALITIES)}"
                raise ConfigError(f"{given.where}: {at}: unknown modality {name[:64]!r}, {hint}")
        return names


def _renamed(raw: Mapping[str, Marked]) -> dict[str, Marked]:
    """Return the entries by this project's names; where both are there, ours."""
    out = {_OLD_PRICES[key]: one for key, one in raw.items() if key in _OLD_PRICES}
    return out | {key: one for key, one in raw.items() if key not in _OLD_PRICES}


def _flat_latency(given: Mapping[str, Marked], at: str, strict: bool) -> Mapping[str, Marked]:
    """Return the entries with ``latency_ms: {p50, p95}`` as the two fields that it stands for."""
    nested = given.get("latency_ms")
    if nested is None or nested.value is None:
        return given
    if not isinstance(nested.value, dict) or not nested.value or not {"p50", "p95"}.issuperset(nested.value):
        _refuse(nested, f"{at}.latency_ms", "{p50: MS, p95: MS} or one of the two")
    out = {key: one for key, one in given.items() if key != "latency_ms"}
    for key, one in nested.value.items():
        name = f"latency_{key}_ms"
        if strict and name in out:
            raise ConfigError(f"{one.where}: {at}: latency_ms.{key} and {name} are the same, expected one of them")
        out[name] = one
    return out


def _amount(given: Marked, at: str) -> float:
    value = given.value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_AMOUNT:
        _refuse(given, at, f"a finite number of at most {MAX_AMOUNT:g} and at least 0")
    return float(value)


def _amount_or_none(given: Marked, at: str) -> float | None:
    return None if given.value is None else _amount(given, at)


def _context(given: Marked, at: str) -> int | None:
    value = given.value
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MAX_AMOUNT or value % 1:
        _refuse(given, at, f"a whole number of tokens from 1 to {MAX_AMOUNT:g}")
    return int(value)


def _locality(given: Marked, at: str) -> str | None:
    if given.value is None:
        return None
    if given.value not in LOCALITIES:
        near = difflib.get_close_matches(str(given.value)[:64], LOCALITIES, 1)
        _refuse(given, at, " or ".join(LOCALITIES) + (f" (did you mean {near[0]}?)" if near else ""))
    return str(given.value)


def _text(given: Marked, at: str) -> str:
    if not isinstance(given.value, str):
        _refuse(given, at, "a text")
    return _check_name(given.value, f"{given.where}: {at}", "a name")


def _refuse(given: Marked, at: str, wanted: str) -> NoReturn:
    raise ConfigError(f"{given.where}: {at}: expected {wanted}, got {given.shown}")
