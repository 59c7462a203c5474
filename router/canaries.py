"""Fixed prompts whose answers are stored with an artifact, and asked again at every load; and hashes of all its files.

Hashes find what was altered, even where the manifest was written anew to match. Answers find what hashes cannot: that
this machine and these libraries no longer do with the very same bytes what training did.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.errors import ArtifactError
from router.estimate import estimate
from router.features import surface_features_of
from router.files import no_pause, parse_json
from router.index import Hits, NeighborIndex, round_points
from router.prompt import Template
from router.tier import Tier
from router.types import JsonObject

CANARIES = "canaries.json"
# A change of the prompts, or of what is stored of them, has another version.
VERSION = 1
_WORDS = "the quarterly report says that revenue grew while costs for staff and machines fell by nearly a tenth "
PROMPTS = (
    "?",
    "Hi",
    " . ",
    "42",
    "What is the capital of France?",
    "Explain photosynthesis to a child of ten.",
    "Translate 'good morning' into Spanish, German and Japanese.",
    "Prove that the square root of 2 is irrational.",
    "A train leaves at 9:15 and travels 240 km at 80 km/h. When does it arrive? Give only the time.",
    "Which of these is NOT a mammal? A) bat B) whale C) penguin D) dog",
    "def add(a, b):\n    return a - b\n\nWhy does add(2, 3) give -1?",
    "SELECT name, COUNT(*) FROM orders GROUP BY name HAVING COUNT(*) > 3;  -- make this faster",
    "```python\nfor i in range(10):\n    print(i ** 2)\n```\nRewrite as a list comprehension.",
    "Write a haiku about rain on a tin roof.",
    "Write a polite e-mail that declines an invitation to a wedding.",
    "Plan three days in Lisbon with two small children and no car.",
    "How long do I roast pumpkin together with lentils?",
    "请用三句话解释什么是机器学习。",
    "写一个函数，判断一个字符串是否为回文。",
    "اكتب رسالة قصيرة إلى صديق قديم.",
    "Объясни, почему небо голубое.",
    '{"role": "user", "tools": [{"name": "search", "args": {"q": "weather"}}]}',
    "\u2200x \u2208 \u211d: x\u00b2 \u2265 0. True or false? \U0001f914",
    "Summarise in one sentence: " + 16 * _WORDS,
)
# How alike the points of a prompt must be here and where the artifact was made, as a cosine: another processor rounds
# otherwise within an 8-bit network. From the stored point on, all is whole numbers up to the similarity.
MIN_COSINE = 0.99
# By how much similarities may differ, and estimates (which are sums of float32 in an order that is the processor's).
MAX_SIMILARITY_ERROR = 1e-6
MAX_ESTIMATE_ERROR = 1e-4
SHOWN_ROWS = 8
# So many more rows are looked at than are used, so that of rows alike the first ones can be taken.
_SPARE_ROWS = 32


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What one tier says to PROMPTS.

    n_tokens: what the encoder was fed, each. points: int8 (n, dim [+ n_features]). rows: int64 (n, SHOWN_ROWS or all
    there are), the nearest to each point, of rows alike the first ones. similarities: float32, of them. estimates:
    float64 (n, 4, n_models), quality, low, high and support. choices: columns of the models of highest utility where
    only quality counts, under the guard; -1 where it is too close to call.
    """

    n_tokens: list[int]
    points: NDArray[np.int8]
    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]
    estimates: NDArray[np.float64]
    choices: list[int]

    def to_json(self, models: Sequence[str]) -> list[JsonObject]:
        """Return one object per prompt."""
        return [
            {
                "n_tokens": self.n_tokens[nth],
                "point": self.points[nth].tobytes().hex(),
                "rows": self.rows[nth].tolist(),
                "similarities": [float(one) for one in self.similarities[nth]],
                "estimates": dict(zip(models, self.estimates[nth].T.tolist(), strict=True)),
                "choice": models[self.choices[nth]] if self.choices[nth] >= 0 else None,
            }
            for nth in range(len(PROMPTS))
        ]


def canaries_of(
    tiers: Sequence[Tier], contents: Mapping[str, bytes], template: Template, models: Sequence[str], best_fixed: str
) -> JsonObject:
    """Return what canaries.json holds. contents: of all other files."""
    fixed = models.index(best_fixed)
    return {
        "version": VERSION,
        "encoders": {tier.name: tier.encoder.id for tier in tiers},
        "fingerprints": _fingerprints(contents),
        "answers": {tier.name: _answers(tier, template, fixed).to_json(models) for tier in tiers},
    }


def read_canaries(contents: Mapping[str, bytes], encoders: Mapping[str, str], root: Path) -> JsonObject:
    """Return the parsed file once it vouches for all the others, of which none needs to be parsed for that.

    contents: of all files. encoders: id by tier, made of the hashes of the very bytes in ``contents``.

    Raises:
        ArtifactError: a file or an encoder is another one than when the artifact was made; it is named.
    """
    path = root / CANARIES
    raw = parse_json(contents[CANARIES], path)
    if raw.get("version") != VERSION or set(raw) != {"version", "encoders", "fingerprints", "answers"}:
        raise ArtifactError(f"{path}: expected version {VERSION}, encoders, fingerprints and answers; train it again")
    known = raw["encoders"]
    if not isinstance(known, dict) or set(known) != set(encoders):
        raise ArtifactError(f"{path}: 'encoders' must be of exactly {', '.join(encoders)}")
    for tier, own in encoders.items():
        if known[tier] != own:
            raise ArtifactError(f"{root / tier / 'encoder'}: altered, its id is not the one in {CANARIES}")
    found = _fingerprints(contents)
    wanted = raw["fingerprints"]
    if not isinstance(wanted, dict) or set(wanted) != set(found):
        raise ArtifactError(f"{path}: 'fingerprints' must be of exactly {', '.join(sorted(found))}")
    for name, fingerprint in found.items():
        if wanted[name] != fingerprint:
            raise ArtifactError(f"{root / name}: altered, its fingerprint is not the one in {CANARIES}")
    return raw


def check_canaries(
    raw: JsonObject,
    tiers: Sequence[Tier],
    template: Template,
    models: Sequence[str],
    best_fixed: str,
    path: Path,
    pause: Callable[[], object] = no_pause,
) -> None:
    """Ask every tier the canaries again, and compare. pause: called after each prompt, to let others work.

    Raises:
        ArtifactError: an answer is another one; the tier, the prompt and what differs are named.
    """
    stored = raw.get("answers")
    if not isinstance(stored, dict) or set(stored) != {tier.name for tier in tiers}:
        raise ArtifactError(f"{path}: 'answers' must be of every tier")
    fixed = models.index(best_fixed)
    for tier in tiers:
        where = f"{path}: {tier.name}"
        try:
            known = _parse(stored[tier.name], models, tier.vectors.shape[1])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
            raise ArtifactError(f"{where}: not the answers to {len(PROMPTS)} prompts: {exc!r}") from exc
        n_tokens, points = _encoded(tier, template, pause)
        for nth, prompt in enumerate(PROMPTS):
            if n_tokens[nth] != known.n_tokens[nth]:
                raise _another(where, prompt, "number of tokens", known.n_tokens[nth], n_tokens[nth])
            cosine = _cosine(known.points[nth], points[nth])
            if not cosine >= MIN_COSINE:
                raise _another(where, prompt, "point", f"a cosine of at least {MIN_COSINE}", f"{cosine:.4f}")
        answers = _answered(tier, known.n_tokens, known.points, fixed)
        pause()
        _compare(known, answers, models, where)
        pause()


def _has_fingerprint(name: str) -> bool:
    """An encoder's files are in its id already, and they are nearly all of the bytes."""
    return name != CANARIES and "/encoder/" not in name


def _fingerprints(contents: Mapping[str, bytes]) -> dict[str, str]:
    return {
        name: hashlib.blake2b(raw, digest_size=16).hexdigest()
        for name, raw in contents.items()
        if _has_fingerprint(name)
    }


def _answers(tier: Tier, template: Template, fixed: int) -> Answers:
    return _answered(tier, *_encoded(tier, template), fixed)


def _encoded(
    tier: Tier, template: Template, pause: Callable[[], object] = no_pause
) -> tuple[list[int], NDArray[np.int8]]:
    """Return the length of PROMPTS in tokens, and their points."""
    cores = [template.strip(one) for one in PROMPTS]
    encodings = []
    for one in cores:
        encodings.append(tier.encoder.encode(one))
        pause()
    points = tier.space.place_all(np.stack([one.vector for one in encodings]), surface_features_of(cores))
    return [one.n_tokens for one in encodings], round_points(points)


def _answered(tier: Tier, n_tokens: list[int], points: NDArray[np.int8], fixed: int) -> Answers:
    hits = _nearest(NeighborIndex(tier.vectors), points, tier.settings.n_neighbors)
    local = estimate(hits, tier.evidence, tier.settings, fixed=fixed)
    estimates = np.stack([local.quality, local.low, local.high, local.support], axis=1)
    choices = [
        _choice(quality, error, fixed, tier.settings.guard_z)
        for quality, error in zip(local.quality, local.lead_error, strict=True)
    ]
    return Answers(n_tokens, points, hits.rows[:, :SHOWN_ROWS], hits.similarities[:, :SHOWN_ROWS], estimates, choices)


def _nearest(index: NeighborIndex, points: NDArray[np.int8], n_neighbors: int) -> Hits:
    """Return the nearest rows of each point, of rows alike the first ones: the same on every machine.

    Which of rows alike a search names is left to the processor's way of sorting.
    """
    k, n_asked = min(n_neighbors, len(index)), n_neighbors + _SPARE_ROWS
    while True:
        found = index.search_many(points.astype(np.float32), n_asked)
        order = np.lexsort((found.rows, -found.similarities), axis=1)
        similarities = np.take_along_axis(found.similarities, order, axis=1)
        if n_asked >= len(index) or (similarities[:, k - 1] > similarities[:, -1]).all():
            return Hits(np.take_along_axis(found.rows, order, axis=1)[:, :k], similarities[:, :k])
        n_asked *= 2


def _choice(quality: NDArray[np.float64], lead_error: NDArray[np.float64], fixed: int, guard_z: float) -> int:
    """Return the column that is chosen, -1 where the tolerance of the estimates could turn it."""
    best = int(quality.argmax())
    others = np.delete(quality, best)
    margins = [float(quality[best] - others.max())]
    if best != fixed:
        over_guard = float(quality[best] - quality[fixed] - guard_z * lead_error[best])
        margins.append(abs(over_guard))
        best = best if over_guard > 0 else fixed
    return best if min(margins) > 10 * MAX_ESTIMATE_ERROR else -1


def _cosine(a: NDArray[np.int8], b: NDArray[np.int8]) -> float:
    """Return the cosine of two points; of two without any direction 1."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    lengths = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / lengths if lengths > 0 else float(not x.any() and not y.any())


def _parse(raw: Any, models: Sequence[str], dim: int) -> Answers:
    """Return what ``to_json`` of Answers gave."""
    if not isinstance(raw, list) or len(raw) != len(PROMPTS):
        raise ValueError("expected a list of them")
    rows = np.array([one["rows"] for one in raw])
    points = np.frombuffer(b"".join(bytes.fromhex(one["point"]) for one in raw), dtype=np.int8)
    if rows.dtype != np.int64 or not all(set(one["estimates"]) == set(models) for one in raw):
        raise ValueError("rows must be whole numbers, and every model has an estimate")
    if any(type(one["n_tokens"]) is not int or one["choice"] not in (None, *models) for one in raw):
        raise ValueError("n_tokens must be whole numbers, and a choice a model or null")
    estimates = np.array([[one["estimates"][model] for model in models] for one in raw], dtype=np.float64)
    return Answers(
        n_tokens=[one["n_tokens"] for one in raw],
        points=points.reshape(len(raw), dim),
        rows=rows.reshape(len(raw), -1),
        similarities=np.array([one["similarities"] for one in raw], dtype=np.float32).reshape(rows.shape),
        estimates=estimates.transpose(0, 2, 1),
        choices=[-1 if one["choice"] is None else models.index(one["choice"]) for one in raw],
    )


def _compare(known: Answers, found: Answers, models: Sequence[str], where: str) -> None:
    """Raise ArtifactError where answers to the same points differ; NaN is a difference, too."""
    if known.rows.shape != found.rows.shape or known.estimates.shape != found.estimates.shape:
        raise ArtifactError(f"{where}: answers of shape {known.rows.shape}, expected {found.rows.shape}")
    for nth, prompt in enumerate(PROMPTS):
        if not np.array_equal(known.rows[nth], found.rows[nth]):
            raise _another(where, prompt, "nearest rows", known.rows[nth].tolist(), found.rows[nth].tolist())
        off = np.abs(known.similarities[nth] - found.similarities[nth]).max()
        if not off <= MAX_SIMILARITY_ERROR:
            raise _another(where, prompt, "similarities", f"within {MAX_SIMILARITY_ERROR:g}", f"{off:.2g} off")
        if not np.allclose(
            found.estimates[nth], known.estimates[nth], rtol=MAX_ESTIMATE_ERROR, atol=MAX_ESTIMATE_ERROR
        ):
            off = np.abs(found.estimates[nth] - known.estimates[nth]).max()
            raise _another(where, prompt, "estimates", f"within {MAX_ESTIMATE_ERROR:g}", f"{off:.2g} off")
        wanted, choice = known.choices[nth], found.choices[nth]
        if wanted >= 0 and choice >= 0 and wanted != choice:
            raise _another(where, prompt, "choice", models[wanted], models[choice])


def _another(where: str, prompt: str, what: str, wanted: object, got: object) -> ArtifactError:
    return ArtifactError(f"{where}: another {what} for the canary {prompt[:30]!r}: expected {wanted}, got {got}")
