"""Texts to points: encoder vectors (cached by encoder and text), features, and the spaces tried at selection."""

import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.encoder import Encoder
from router.errors import ConfigError
from router.features import N_FEATURES, surface_features_of
from router.index import round_points, unit_points
from router.prompt import prompt_hash
from router.space import Space, fit_space
from training.comparisons import Kept
from training.hold_out import Far, Place
from training.select import N_NEIGHBORS, TEMPERATURES

# Random-word prompts may keep about this share of the weight that a prompt from the log has.
JUNK_SHARE = 0.03
N_JUNK = 300
# On small, varied logs random words lie nearly as close as prompts do. Distance tells little there, and a sharp scale
# would only throw evidence away (2 points of true gain on the sample log at 0.02).
MIN_GAP = 0.1
DEFAULT_FAR_TEMPERATURE = 0.06
CHUNK_ROWS = 1024
# A prompt of which the encoder knows less than the rest is not routed by its neighbours, unless the log holds enough of
# such prompts: then the held-out report speaks of them, too.
MAX_UNKNOWN_SHARE = 0.4
VOUCHED_ROWS = 50
# Part of a cache file's name: another content needs another number.
CACHE_VERSION = 2

Advance = Callable[[int], object]
"""Called with the number of texts that were just finished."""


Encoded = dict[str, tuple[NDArray[np.float32], float]]
"""A text's hash to its vector and unknown share."""


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """vectors: float32 (n_texts, dim), as the encoder gives them. features: float64 (n_texts, n_features).

    unknown_share: float64 (n_texts,), share of each text's tokens that the encoder does not know.
    """

    vectors: NDArray[np.float32]
    features: NDArray[np.float64]
    unknown_share: NDArray[np.float64]

    @property
    def max_unknown_share(self) -> float:
        """The share above which a prompt is not routed by neighbours; 1 (never) where these texts vouch for it."""
        return 1.0 if (self.unknown_share > MAX_UNKNOWN_SHARE).sum() >= VOUCHED_ROWS else MAX_UNKNOWN_SHARE

    @property
    def unreadable(self) -> NDArray[np.bool_]:
        """Which texts are not routed by neighbours: bool (n_texts,)."""
        return np.asarray(self.unknown_share > self.max_unknown_share)

    def take(self, rows: NDArray[np.int64]) -> "Embedded":
        """Return what was made of ``rows`` alone, in this order."""
        return Embedded(self.vectors[rows], self.features[rows], self.unknown_share[rows])


def embed_texts(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    kept: Sequence[Kept | None] = (),
    cache: Path | None = None,
    advance: Advance | None = None,
) -> Embedded:
    """Encode texts one by one, exactly as serving does; with ``cache``, only those not seen before.

    kept: per text, what takes its place, or None; () takes the place of none. The encoder must have seen its prompt.
    How much of such a prompt it knew is not kept: it counts as readable. cache: a directory; holds one file per
    encoder, of text hashes, vectors and unknown shares.
    """
    known = _read_cache(cache, encoder)
    vectors = np.empty((len(texts), encoder.settings.dim), dtype=np.float32)
    unknown_share = np.empty(len(texts))
    features = surface_features_of(texts) if len(texts) else np.empty((0, N_FEATURES))
    fresh: Encoded = {}
    for row, (text, own) in enumerate(zip(texts, kept or (None,) * len(texts), strict=True)):
        if own is not None and own.features is not None:
            vectors[row], unknown_share[row], features[row] = own.vectors[encoder.id], 0.0, own.features
        else:
            key = prompt_hash(text)
            found = known.get(key) or fresh.get(key)
            if found is None:
                encoding = encoder.encode(text)
                found = fresh[key] = encoding.vector, encoding.unknown_share
            vectors[row], unknown_share[row] = found
        if advance is not None:
            advance(1)
    if cache is not None and fresh:
        _write_cache(cache, encoder, known | fresh)
    return Embedded(vectors, features, unknown_share)


def _cache_file(cache: Path, encoder: Encoder) -> Path:
    return cache / f"vectors-{CACHE_VERSION}-{encoder.id[:16]}.npz"


def _read_cache(cache: Path | None, encoder: Encoder) -> Encoded:
    if cache is None or not _cache_file(cache, encoder).is_file():
        return {}
    try:
        with _cache_file(cache, encoder).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            pairs = zip(stored["vectors"], stored["unknown_share"].tolist(), strict=True)
            return dict(zip(stored["keys"].tolist(), pairs, strict=True))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}  # a damaged cache costs time, not truth


def _write_cache(cache: Path, encoder: Encoder, encoded: Encoded) -> None:
    beside = cache / f".{os.getpid()}.npz"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        vectors, unknown_share = zip(*encoded.values(), strict=True)
        np.savez(beside, keys=np.array(list(encoded)), vectors=np.stack(vectors), unknown_share=unknown_share)
        beside.replace(_cache_file(cache, encoder))
    except OSError as exc:
        raise ConfigError(f"{cache}: the cache cannot be written: {exc.strerror}") from exc


def make_places(
    encoder: Encoder, texts: Sequence[str], embedded: Embedded, feature_weights: Sequence[float], seed: int
) -> list[Place]:
    """Return the training rows in one space per feature weight, each with its measure of what is far.

    Far is measured, not chosen: prompts of random words drawn from the log's own are put into the space, and the
    far temperature is set so that their median keeps JUNK_SHARE of a usual prompt's weight. Words are those of the rows
    that have their text, of which empty ``texts`` have none; without any word, far is DEFAULT_FAR_TEMPERATURE.
    """
    with_text = [text for text in texts if text]
    junk = embed_texts(encoder, random_word_prompts(with_text, N_JUNK, seed)) if with_text else None
    max_unknown_share = embedded.max_unknown_share
    unreadable = embedded.unreadable
    places = []
    for weight in feature_weights:
        space = fit_space(embedded.vectors, embedded.features, weight)
        vectors = _rounded(space, embedded)
        usual = float(np.median(_nearest_other(vectors)))
        if junk is None:
            places.append(Place(space, vectors, Far(usual, DEFAULT_FAR_TEMPERATURE, max_unknown_share), unreadable))
            continue
        others = vectors[:N_JUNK] @ vectors.T
        others[np.arange(len(others)), np.arange(len(others))] = -np.inf
        strangers = _rounded(space, junk) @ vectors.T
        gap = usual - float(np.median(strangers.max(axis=1)))
        # Random words have many neighbours nearly as near as the nearest: their support is more than its weight.
        share = JUNK_SHARE * min(1.0, _flat_support(others) / _flat_support(strangers))
        far_temperature = gap / -np.log(share) if gap > MIN_GAP else DEFAULT_FAR_TEMPERATURE
        far = Far(usual, float(far_temperature), max_unknown_share)
        places.append(Place(space, vectors, far, unreadable))
    return places


def _rounded(space: Space, embedded: Embedded) -> NDArray[np.float32]:
    """Return the points, rounded as the index rounds them, so that training and serving see the same similarities."""
    return unit_points(round_points(space.place_all(embedded.vectors, embedded.features)))


def _flat_support(similar: NDArray[np.float32]) -> float:
    """Return the median support without the far factor, in the widest and sharpest neighbourhood of the grid."""
    nearest = -np.sort(-similar, axis=1)[:, : max(N_NEIGHBORS)].astype(np.float64)
    return float(np.median(np.exp((nearest - nearest[:, :1]) / min(TEMPERATURES)).sum(axis=1)))


def random_word_prompts(texts: Sequence[str], n_prompts: int, seed: int) -> list[str]:
    """Return prompts as long as the log's, made of words drawn at random from all of them."""
    rng = np.random.default_rng(seed)
    sample = [texts[row] for row in rng.integers(0, len(texts), min(len(texts), 4 * n_prompts))]
    words = [text.split() or [text] for text in sample]
    pool = np.array([word for one in words for word in one], dtype=object)
    return [" ".join(rng.choice(pool, size=len(words[i]))) for i in rng.integers(0, len(words), n_prompts)]


def _nearest_other(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return every row's similarity to the nearest other row: float32 (n_rows,)."""
    if len(vectors) == 1:
        return np.ones(1, dtype=np.float32)
    out = np.empty(len(vectors), dtype=np.float32)
    for start in range(0, len(vectors), CHUNK_ROWS):
        similar = vectors[start : start + CHUNK_ROWS] @ vectors.T
        at = np.arange(len(similar))
        similar[at, start + at] = -np.inf
        out[start : start + CHUNK_ROWS] = similar.max(axis=1)
    return out
