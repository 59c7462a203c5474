"""One tier of an artifact: an encoder, and all that was learnt from the rows in its space; with its own files."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.encoder import ENCODER_FILES, TIERS, OnnxEncoder
from router.errors import ArtifactError, ConfigError
from router.estimate import EstimatorSettings, Evidence
from router.features import N_FEATURES
from router.files import check_arrays, json_bytes, npy_bytes, parse_array, parse_json
from router.index import TOP
from router.pins import check_pins
from router.space import Space
from router.types import TRADE_OFFS, JsonObject, Verdict

BEST_FIRST = tuple(reversed(TIERS))
VECTORS, WEIGHTS, RESIDUALS = "vectors.npy", "evidence_h.npy", "evidence_g.npy"
LEARNED, REPORT = "learned.json", "report.json"
# dtype and number of axes of every array file.
TIER_ARRAYS: Mapping[str, tuple[str, int]] = {
    VECTORS: ("int8", 2),
    WEIGHTS: ("float32", 2),
    RESIDUALS: ("float32", 2),
}
VERDICTS = ("ROUTE", "DO NOT ROUTE", "NOT ENOUGH DATA")
# So far from what training writes that no log comes near them, and so far from overflow that no sum does.
MAX_NUMBER, MAX_FEATURE_WEIGHT, MIN_FEATURE_SCALE = 1e9, 1e3, 1e-9
TIER_FILES = (*(f"encoder/{name}" for name in ENCODER_FILES), *TIER_ARRAYS, LEARNED, REPORT)


@dataclass(frozen=True, slots=True, eq=False)
class Tier:
    """What serving needs to answer with one encoder.

    vectors: int8 (n_rows, dim [+ n_features]), the rows' points in ``space`` as router.index rounds them. evidence: its
    kind, intents and sizes are the same in every tier of an artifact. verdict, report: from rows held out of this tier,
    the report JSON-able. strategies: USD that a unit of quality is worth under each named strategy, None where cost
    does not matter.
    """

    encoder: OnnxEncoder
    space: Space
    vectors: NDArray[np.int8]
    evidence: Evidence
    settings: EstimatorSettings
    verdict: Verdict
    strategies: Mapping[str, float | None]
    report: JsonObject

    @property
    def name(self) -> str:
        """The encoder's tier, 'full' or 'static'."""
        return self.encoder.settings.tier

    def files(self) -> dict[str, bytes]:
        """Return the content of TIER_FILES; what the evidence shares with other tiers is not in them."""
        return {
            **{f"encoder/{name}": raw for name, raw in self.encoder.files.items()},
            VECTORS: npy_bytes(self.vectors),
            WEIGHTS: npy_bytes(self.evidence.h),
            RESIDUALS: npy_bytes(self.evidence.g),
            LEARNED: json_bytes(self._learned()),
            REPORT: json_bytes(self.report),
        }

    def _learned(self) -> JsonObject:
        return {
            "prior": self.evidence.prior.tolist(),
            "intent_priors": self.evidence.intent_priors.tolist(),
            "variance": self.evidence.variance.tolist(),
            "settings": asdict(self.settings),
            "space": {
                "center": [float(one) for one in self.space.center],
                "feature_mean": self.space.feature_mean.tolist(),
                "feature_scale": self.space.feature_scale.tolist(),
                "feature_weight": self.space.feature_weight,
            },
            "strategies": dict(self.strategies),
            "verdict": asdict(self.verdict),
        }


@dataclass(frozen=True, slots=True, eq=False)
class RowFacts:
    """What all tiers know of the rows alike.

    kind: 'scores' or 'battles'. intents: int32 (n_rows,). sizes: float32 (n_rows,). n_models, n_intents: how many the
    artifact names.
    """

    kind: str
    intents: NDArray[np.int32]
    sizes: NDArray[np.float32]
    n_models: int
    n_intents: int


def read_tier(
    name: str,
    contents: Mapping[str, bytes],
    facts: RowFacts,
    pins: object,
    root: Path,
    encoder: OnnxEncoder | None = None,
) -> Tier:
    """Return the tier of ``name`` in the artifact at ``root``, checked.

    contents: of TIER_FILES, whose hashes are known to agree. pins: what the manifest says of the tier's vectors.
    encoder: one that was loaded from the very bytes of the tier's own; None to load it.

    Raises:
        ArtifactError: a file does not hold what it must, or something else made the vectors; it is named.
        EncoderError: the encoder inside does not work.
    """
    home = root / name
    files = {one: contents[f"encoder/{one}"] for one in ENCODER_FILES}
    if encoder is None:
        encoder = OnnxEncoder(files, where=str(home / "encoder"))
    check_pins(pins, encoder, str(root / "manifest.json"))
    if encoder.settings.tier != name:
        raise ArtifactError(f"{home / 'encoder'}: an encoder of the tier {encoder.settings.tier}, expected {name}")
    arrays = {one: parse_array(contents[one], *form, home / one) for one, form in TIER_ARRAYS.items()}
    learned = parse_json(contents[LEARNED], home / LEARNED)
    report = parse_json(contents[REPORT], home / REPORT)
    try:
        tier = _assemble(encoder, arrays, learned, report, facts)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, ConfigError) as exc:
        raise ArtifactError(f"{home / LEARNED}: {exc!r}") from exc
    _check_shapes(tier, facts, home)
    _check_numbers(tier, home)
    return tier


def _assemble(
    encoder: OnnxEncoder,
    arrays: Mapping[str, NDArray[Any]],
    learned: JsonObject,
    report: JsonObject,
    facts: RowFacts,
) -> Tier:
    names = [one.name for one in fields(EstimatorSettings)]
    if set(learned["settings"]) != set(names):
        got = ", ".join(sorted(learned["settings"]))
        raise ValueError(f"settings must be exactly {', '.join(names)}; got {got}")
    _check_types(learned["settings"])
    space = learned["space"]
    return Tier(
        encoder=encoder,
        space=Space(
            center=np.array(space["center"], dtype=np.float32),
            feature_mean=np.array(space["feature_mean"], dtype=np.float64),
            feature_scale=np.array(space["feature_scale"], dtype=np.float64),
            feature_weight=float(space["feature_weight"]),
        ),
        vectors=arrays[VECTORS],
        evidence=Evidence(
            kind=facts.kind,
            h=arrays[WEIGHTS],
            g=arrays[RESIDUALS],
            intents=facts.intents,
            prior=np.array(learned["prior"], dtype=np.float64),
            intent_priors=np.array(learned["intent_priors"], dtype=np.float64).reshape(-1, facts.n_models),
            variance=np.array(learned["variance"], dtype=np.float64),
            sizes=facts.sizes,
        ),
        settings=EstimatorSettings(**learned["settings"]),
        verdict=Verdict(**learned["verdict"]),
        strategies={name: None if usd is None else float(usd) for name, usd in learned["strategies"].items()},
        report=report,
    )


def _check_types(settings: JsonObject) -> None:
    """Raise ValueError for a setting of another type than its field's, or a number that is none."""
    for one in fields(EstimatorSettings):
        value, wanted = settings[one.name], one.type
        fits = type(value) is wanted or (wanted is float and type(value) is int)
        if not fits or (wanted is not str and not abs(value) < np.inf):
            raise ValueError(f"settings: {one.name} must be {getattr(wanted, '__name__', wanted)}, got {value!r}")


def _check_shapes(tier: Tier, facts: RowFacts, home: Path) -> None:
    """Refuse, by name, arrays that do not belong together or hold impossible numbers."""
    evidence, space, dim = tier.evidence, tier.space, tier.encoder.settings.dim
    n_rows, n_models = len(facts.intents), facts.n_models
    wanted = dim + (N_FEATURES if space.feature_weight > 0 else 0)
    if tier.vectors.shape[1] != wanted:
        raise ArtifactError(
            f"{home / VECTORS}: {tier.vectors.shape[1]} dimensions, but the encoder and its features give {wanted}"
        )
    check_arrays(
        {
            VECTORS: (tier.vectors, (n_rows, wanted)),
            WEIGHTS: (evidence.h, (n_rows, n_models)),
            RESIDUALS: (evidence.g, (n_rows, n_models)),
            f"{LEARNED} center": (space.center, (dim,)),
            f"{LEARNED} feature_mean": (space.feature_mean, (N_FEATURES,)),
            f"{LEARNED} feature_scale": (space.feature_scale, (N_FEATURES,)),
            f"{LEARNED} prior": (evidence.prior, (n_models,)),
            f"{LEARNED} variance": (evidence.variance, (n_models,)),
            f"{LEARNED} intent_priors": (evidence.intent_priors, (facts.n_intents, n_models)),
        },
        home,
    )


def _check_numbers(tier: Tier, home: Path) -> None:
    """Refuse, by name, numbers out of their range."""
    evidence, space = tier.evidence, tier.space
    # The absolute value of -128 is none in int8, and no stored point holds it.
    largest = np.maximum(tier.vectors.max(axis=1), -tier.vectors.min(axis=1).astype(np.int16))
    if not (largest == TOP).all():
        raise ArtifactError(f"{home / VECTORS}: the largest absolute component of every row must be {TOP}")
    if not (space.feature_scale >= MIN_FEATURE_SCALE).all() or not 0 <= space.feature_weight <= MAX_FEATURE_WEIGHT:
        raise ArtifactError(
            f"{home / LEARNED}: feature scales must be at least {MIN_FEATURE_SCALE:g} and their weight within 0 and "
            f"{MAX_FEATURE_WEIGHT:g}"
        )
    if (np.abs(space.center) > 1.001).any():  # a mean of unit vectors, which rounding makes a little longer
        raise ArtifactError(f"{home / LEARNED}: center must be within -1 and 1")
    if (evidence.h < 0).any() or (evidence.variance < 0).any():
        raise ArtifactError(f"{home / WEIGHTS}: evidence weights and variances must not be negative")
    for name, numbers in (
        (WEIGHTS, evidence.h),
        (RESIDUALS, evidence.g),
        (f"{LEARNED} prior", evidence.prior),
        (f"{LEARNED} intent_priors", evidence.intent_priors),
        (f"{LEARNED} variance", evidence.variance),
        (f"{LEARNED} feature_mean", space.feature_mean),
    ):
        if np.abs(numbers).max(initial=0) > MAX_NUMBER:
            raise ArtifactError(f"{home / name}: a number beyond {MAX_NUMBER:g}")
    if tier.verdict.label not in VERDICTS or not isinstance(tier.verdict.text, str):
        raise ArtifactError(f"{home / LEARNED}: the verdict must be {', '.join(VERDICTS)}, and a text")
    amounts = [usd for usd in tier.strategies.values() if usd is not None]
    if set(tier.strategies) != set(TRADE_OFFS) or not all(0 < usd < np.inf for usd in amounts):
        raise ArtifactError(f"{home / LEARNED}: strategies must be {', '.join(TRADE_OFFS)}, each null or USD above 0")
