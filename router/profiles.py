"""What models cost and where they run: reading price files and profiles."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from router.errors import ConfigError
from router.needs import count_tokens
from router.types import Endpoint, JsonObject, ModelProfile

DEFAULT_OUTPUT_TOKENS = 256.0
# Beyond it a whole number has no float.
MAX_WHOLE = 2**1000
_EXPONENT = re.compile(r"[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]{1,3}")


def read_profiles(path: str | Path) -> dict[str, ModelProfile]:
    """Read a YAML or JSON file {model: {usd_per_mtok_in, usd_per_mtok_out [, mean_output_tokens]}}.

    LLMRouter's candidate files ({model: {input_price, output_price}}, USD per million tokens) are read as well.
    In training a mean_output_tokens yields to what the log shows (training/cost.py).

    Raises:
        ConfigError: the file cannot be read, is not such a mapping, or a price is not a finite number of at least 0.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        raw = json.loads(text) if str(path).endswith(".json") else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from exc
    except (ValueError, RecursionError, yaml.YAMLError) as exc:
        raise ConfigError(f"{path}: neither YAML nor JSON: {(str(exc) or 'nested too deep').splitlines()[0]}") from exc
    return profiles_from_json(raw, str(path))


def profiles_from_json(raw: Any, where: str) -> dict[str, ModelProfile]:
    """Read parsed profiles: the form of ``read_profiles`` or of ``profiles_to_json``.

    Raises:
        ConfigError: as read_profiles.
    """
    if not isinstance(raw, Mapping) or not raw:
        raise ConfigError(f"{where}: expected a mapping of model names to prices")
    return {str(name): _profile(str(name), entry, where) for name, entry in raw.items()}


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
    """Return what ``profiles_from_json`` reads."""
    return {
        name: {
            "mean_output_tokens": one.mean_output_tokens,
            "mean_cost_usd": one.mean_cost_usd,
            "endpoints": [
                {"name": e.name, "usd_per_mtok_in": e.usd_per_mtok_in, "usd_per_mtok_out": e.usd_per_mtok_out}
                for e in one.endpoints
            ],
        }
        for name, one in profiles.items()
    }


def _profile(name: str, entry: Any, where: str) -> ModelProfile:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where}: {name}: expected usd_per_mtok_in and usd_per_mtok_out, got {type(entry).__name__}")
    raw_endpoints = entry.get("endpoints")
    if raw_endpoints is None:
        raw_endpoints = [entry] if {"usd_per_mtok_in", "input_price"} & set(entry) else []
    if not isinstance(raw_endpoints, list) or not all(isinstance(one, Mapping) for one in raw_endpoints):
        raise ConfigError(f"{where}: {name}.endpoints: expected a list of objects")
    endpoints = tuple(
        Endpoint(
            name=str(one.get("name", "default")),
            usd_per_mtok_in=_price(one, "usd_per_mtok_in", "input_price", f"{where}: {name}"),
            usd_per_mtok_out=_price(one, "usd_per_mtok_out", "output_price", f"{where}: {name}"),
        )
        for one in raw_endpoints
    )
    mean_cost = entry.get("mean_cost_usd")
    if not endpoints and mean_cost is None and not {"endpoints", "mean_cost_usd"} <= set(entry):
        raise ConfigError(f"{where}: {name}: no price; expected usd_per_mtok_in and usd_per_mtok_out")
    return ModelProfile(
        name=name,
        mean_output_tokens=_number(
            entry.get("mean_output_tokens", DEFAULT_OUTPUT_TOKENS), f"{where}: {name}.mean_output_tokens"
        ),
        endpoints=endpoints,
        mean_cost_usd=None if mean_cost is None else _number(mean_cost, f"{where}: {name}.mean_cost_usd"),
    )


def _price(entry: Mapping[str, Any], key: str, other_key: str, where: str) -> float:
    if key not in entry and other_key not in entry:
        raise ConfigError(f"{where}: {key} is missing")
    return _number(entry.get(key, entry.get(other_key)), f"{where}.{key}")


def _number(value: Any, where: str) -> float:
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        value = float(value)  # YAML reads 1e-3 as a text; it is a number to everybody else
    if isinstance(value, int) and abs(value) > MAX_WHOLE:
        value = math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{where}: expected a finite number of at least 0, got {value!r}")
    return float(value)
