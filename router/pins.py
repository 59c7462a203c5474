"""What made an artifact's vectors, property by property: written into the manifest, and asked for again at load.

A prompt's vector is comparable with the rows' only if every one of these is the same in training and in serving.
"""

import hashlib
from collections.abc import Mapping

from router.encoder import CHARS_PER_TOKEN, OnnxEncoder
from router.errors import ArtifactError
from router.features import FEATURES, N_FEATURES
from router.index import METRIC
from router.prompt import FOLDING
from router.types import JsonObject


def pins_of(encoder: OnnxEncoder) -> JsonObject:
    """Return every property of the encoder and of this code that vectors depend on, JSON-able.

    The network's bytes pin its weights and its pooling. The encoder's id covers the three files whole; it stands last,
    so that a comparison in order names the property that differs before it says that something does.
    """
    settings = encoder.settings
    return {
        "tier": settings.tier,
        "dim": settings.dim,
        "truncation": settings.truncation,
        "max_tokens": settings.max_tokens,
        "chars_per_token": CHARS_PER_TOKEN,
        "prefix_ids": list(settings.prefix_ids),
        "suffix_ids": list(settings.suffix_ids),
        "unknown_token": settings.unknown_token,
        "tokenizer_sha256": hashlib.sha256(encoder.files["tokenizer.json"]).hexdigest(),
        "model_sha256": hashlib.sha256(encoder.files["model.onnx"]).hexdigest(),
        "name": settings.name,
        "metric": METRIC,
        "folding": FOLDING,
        "features": FEATURES,
        "n_features": N_FEATURES,
        "encoder_id": encoder.id,
    }


def check_pins(pinned: object, encoder: OnnxEncoder, where: str) -> None:
    """Compare the pins of a manifest with those of the encoder that was loaded and of this code.

    Raises:
        ArtifactError: one differs, is missing or is unknown; ``where``, the property and both values are named.
    """
    if not isinstance(pinned, Mapping):
        raise ArtifactError(f"{where}: 'pins' must say what made the vectors, got {pinned!r}")
    own = pins_of(encoder)
    for name in (*own, *sorted(set(pinned) - set(own))):
        got, wanted = own.get(name), pinned.get(name)
        if got != wanted or type(got) is not type(wanted):
            raise ArtifactError(f"{where}: the vectors were made with {name} {wanted!r}, got {got!r}; train it again")
