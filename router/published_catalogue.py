"""Price lists that others publish, LiteLLM's and models.dev's, as offers: which provider has which model, at what."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.errors import ConfigError

MAX_FILE_BYTES = 64 << 20
MAX_KEY_CHARS = 256
# In order of trust where several offer a model: who made it names it, and says what it can do.
MAKERS = frozenset(
    [
        "openai",
        "anthropic",
        "gemini",
        "google",
        "mistral",
        "deepseek",
        "xai",
        "cohere",
        "moonshot",
        "moonshotai",
        "zai",
        "minimax",
        "dashscope",
        "alibaba",
        "meta_llama",
        "llama",
        "amazon_nova",
        "ai21",
    ]
)
LOCAL_PROVIDERS = frozenset(
    ["ollama", "lemonade", "lm_studio", "lmstudio", "llamafile", "vllm", "hosted_vllm", "xinference"]
)
_NO_CHAT_BY_NAME = re.compile(r"embed|rerank|whisper|moderation|(^|[-_/])(tts|bge|gte|e5)([-_]|$)", re.IGNORECASE)
_COMMITMENT = re.compile(r"-month-commitment/")
# Bedrock's names: region, maker, name, version: us.anthropic.claude-3-haiku-20240307-v1:0
_BEDROCK_REGION = re.compile(r"(us-gov|us|eu|apac|jp|au|ca|global)\.(?=[a-z0-9]+\.)")
_BEDROCK_MAKER = re.compile(
    r"(anthropic|amazon|meta|mistral|cohere|ai21|qwen|nvidia|openai|google|minimax|zai|writer|deepseek|moonshot|moonshotai"
    r"|xai|twelvelabs)\.(?=[a-z])"
)
_BEDROCK_VERSION = re.compile(r"-v?\d+:0(:\w+)?$")
_REGION = re.compile(r"(us|eu|ap|sa|ca|me|af|il)(-gov)?-[a-z]+-\d|us|eu")
_LITELLM_CAPABILITIES: Mapping[str, tuple[str, ...]] = {
    "audio": ("supports_audio_input",),
    "files": ("supports_pdf_input",),
    "json": ("supports_response_schema", "supports_native_structured_output"),
    "reasoning": ("supports_reasoning",),
    "tools": ("supports_function_calling",),
    "vision": ("supports_vision",),
}
_LITELLM_MODALITIES = {"image": "supports_vision", "audio": "supports_audio_input", "pdf": "supports_pdf_input"}
_MODELS_DEV_CAPABILITIES = {"tools.function_calling": "tools", "reasoning": "reasoning", "structured.output": "json"}
_MODELS_DEV_MODALITIES: Mapping[str, str | None] = {
    "text": None,
    "image": "vision",
    "audio": "audio",
    "video": None,
    "pdf": "files",
}


@dataclass(frozen=True, slots=True)
class Offer:
    """One chat model at one provider, as published.

    key: its name in the catalogue, which is what a gateway calls it. identity: letters and digits that are the same
    for the same model at any provider. usd_per_mtok_in, usd_per_mtok_out: USD per million tokens, unchecked: None
    where not given, NaN where no number. per_request: whether each request costs something besides.
    """

    key: str
    provider: str
    identity: str
    usd_per_mtok_in: float | None
    usd_per_mtok_out: float | None
    per_request: bool
    capabilities: tuple[str, ...]
    modalities: tuple[str, ...]
    context_tokens: int | None
    region: str | None

    @property
    def is_priced(self) -> bool:
        """Whether a price was published, right or wrong."""
        return self.usd_per_mtok_in is not None or self.usd_per_mtok_out is not None

    @property
    def is_local(self) -> bool:
        """Whether it runs on one's own machine."""
        return self.provider in LOCAL_PROVIDERS


@dataclass(frozen=True, slots=True)
class PublishedCatalogue:
    """The offers of a file in its order, and what was passed over: reason to number of entries. kind: a key of READERS.

    n_entries: all that the file holds, offers and skipped together. origin: what it says of itself.
    """

    kind: str
    n_entries: int
    offers: tuple[Offer, ...]
    skipped: Mapping[str, int]
    origin: str

    def by_identity(self) -> dict[str, list[Offer]]:
        """Return the offers of each model, those first that describe it best."""
        groups: dict[str, list[Offer]] = {}
        for one in self.offers:
            groups.setdefault(one.identity, []).append(one)
        return {identity: sorted(group, key=_trust) for identity, group in groups.items()}


def read_catalogue(path: str | Path, kind: str) -> PublishedCatalogue:
    """Read a published file. kind: ``litellm`` or ``models-dev``.

    Raises:
        ConfigError: the file cannot be read, is larger than MAX_FILE_BYTES, or not of that kind.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes, expected a catalogue of {kind}")
    try:
        parsed = json.loads(raw, parse_int=_whole)
    except json.JSONDecodeError as exc:
        raise ConfigError(f"{path}:{exc.lineno}: not JSON: {exc.msg}") from exc
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{path}: not JSON: {exc}") from exc
    found = READERS[kind](parsed, str(path))
    if not found.offers:
        raise ConfigError(f"{path}: holds no chat models in the form of {kind} ({found.n_entries} entries)")
    return found


def identity_of(name: str) -> str:
    """Return what names of one model at several providers have in common; a guess, by the habits of their names.

    Gone are the provider and the maker before the name, regions, versions of the API, separators and case:
    ``us.anthropic.claude-3-haiku-20240307-v1:0`` and ``vertex_ai/claude-3-haiku@20240307`` are one, and dates stay.
    """
    last = name.rsplit("/", 1)[-1].lower()
    last = _BEDROCK_MAKER.sub("", _BEDROCK_REGION.sub("", last, count=1), count=1)
    last = _BEDROCK_VERSION.sub("", last)
    last = last.removesuffix("-maas").removesuffix("@default").removeprefix("databricks-").removeprefix("snowflake-")
    last = re.sub(r"(?<=\d)p(?=\d)", ".", last)  # Fireworks writes v3p1
    last = re.sub(r"^(meta-)?llama-?v?(?=\d)", "llama-", last)
    short = re.sub(r"[^a-z0-9]", "", last)
    return f"{short}:{last.rsplit(':', 1)[-1]}" if last.endswith((":free", ":thinking", ":extended")) else short or last


def _litellm(parsed: Any, where: str) -> PublishedCatalogue:
    if not isinstance(parsed, dict):
        raise ConfigError(f"{where}: expected LiteLLM's object of models by name, got {type(parsed).__name__}")
    skipped: Counter[str] = Counter()
    offers = []
    for key, entry in parsed.items():
        reason = "describes the fields" if key == "sample_spec" else _unusable(key, entry)
        if reason is None and entry.get("mode") not in ("chat", "responses"):
            reason = f"mode {_word(entry.get('mode'))}"
        if reason is None and _COMMITMENT.search(key):
            reason = "sold by the month"
        if reason is None and _NO_CHAT_BY_NAME.search(key):
            reason = "no chat model, by its name"
        if reason is not None:
            skipped[reason] += 1
            continue
        offers.append(_litellm_offer(key, entry))
    return PublishedCatalogue("litellm", len(parsed), tuple(offers), dict(skipped.most_common()), "LiteLLM")


def _litellm_offer(key: str, entry: Mapping[str, Any]) -> Offer:
    named = entry.get("supported_modalities")
    modalities = {"text", *(one for one, flag in _LITELLM_MODALITIES.items() if entry.get(flag) is True)}
    if isinstance(named, list):
        modalities |= {one for one in named if one in ("image", "audio", "video")}
    capabilities = {
        name for name, flags in _LITELLM_CAPABILITIES.items() if any(entry.get(one) is True for one in flags)
    }
    context = _tokens(entry.get("max_input_tokens"))
    if context is None and entry.get("max_output_tokens") is None:
        context = _tokens(entry.get("max_tokens"))  # before there were two fields, this was the window
    return Offer(
        key=key,
        provider=_litellm_provider(entry.get("litellm_provider")),
        identity=identity_of(key),
        usd_per_mtok_in=_usd(entry.get("input_cost_per_token"), 1e6),
        usd_per_mtok_out=_usd(entry.get("output_cost_per_token"), 1e6),
        per_request=bool(_usd(entry.get("input_cost_per_request"), 1.0)),
        capabilities=tuple(sorted(capabilities | _follows(modalities))),
        modalities=tuple(sorted(modalities)),
        context_tokens=context,
        region=_region(key),
    )


def _litellm_provider(value: Any) -> str:
    """Return who sells, without LiteLLM's ways to call them: vertex_ai-llama_models, bedrock_converse, cohere_chat."""
    name = _word(value).removeprefix("text-completion-").split("-")[0]
    return "bedrock" if name.startswith("bedrock") else name.removesuffix("_chat")


def _models_dev(parsed: Any, where: str) -> PublishedCatalogue:
    models = parsed.get("models") if isinstance(parsed, dict) else None
    if not isinstance(models, list):
        raise ConfigError(f"{where}: expected models.dev's object with a list of models, got {type(parsed).__name__}")
    skipped: Counter[str] = Counter()
    offers: dict[str, Offer] = {}
    for entry in models:
        key = entry.get("modelId") if isinstance(entry, dict) else None
        reason = _unusable(key, entry)
        if reason is None and "text.chat" not in _list(entry.get("capabilities")):
            reason = "no chat model"
        if reason is None and _NO_CHAT_BY_NAME.search(str(key)):
            reason = "no chat model, by its name"
        if reason is None and key in offers:
            reason = "named twice"
        if reason is not None:
            skipped[reason] += 1
            continue
        offers[str(key)] = _models_dev_offer(str(key), entry)
    source = _object(parsed.get("source"))
    origin = f"models.dev of {_word(source.get('capturedAt'))[:10]}" if source else "models.dev"
    return PublishedCatalogue("models-dev", len(models), tuple(offers.values()), dict(skipped.most_common()), origin)


def _models_dev_offer(key: str, entry: Mapping[str, Any]) -> Offer:
    pricing = _object(entry.get("pricing"))
    in_usd = pricing.get("currency", "USD") == "USD"
    modalities = {one for one in _list(entry.get("modalities")) if one in _MODELS_DEV_MODALITIES}
    capabilities = {_MODELS_DEV_CAPABILITIES[one] for one in _list(entry.get("capabilities")) if _known_word(one)}
    return Offer(
        key=key,
        provider=_word(entry.get("providerId")),
        identity=identity_of(key),
        usd_per_mtok_in=_usd(pricing.get("inputPer1M"), 1.0) if in_usd else None,
        usd_per_mtok_out=_usd(pricing.get("outputPer1M"), 1.0) if in_usd else None,
        per_request=False,
        capabilities=tuple(sorted(capabilities | _follows(modalities))),
        modalities=tuple(sorted(modalities | {"text"})),
        context_tokens=_tokens(entry.get("contextWindow")),
        region=_region(key),
    )


READERS: Mapping[str, Callable[[Any, str], PublishedCatalogue]] = {"litellm": _litellm, "models-dev": _models_dev}


def _trust(one: Offer) -> tuple[bool, bool, bool, int, int, str]:
    return (one.provider not in MAKERS, one.is_local, one.region is not None, one.key.count("/"), len(one.key), one.key)


def _unusable(key: Any, entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return "no object"
    if not isinstance(key, str) or not key.strip() or not key.isprintable() or len(key) > MAX_KEY_CHARS:
        return "no usable name"
    return None


def _follows(modalities: Iterable[str]) -> set[str]:
    return {follows for one in modalities if (follows := _MODELS_DEV_MODALITIES[one]) is not None}


def _known_word(one: Any) -> bool:
    return isinstance(one, str) and one in _MODELS_DEV_CAPABILITIES


def _region(key: str) -> str | None:
    """Return the region that a name says, such as eu or us-west-2; ``global`` is none."""
    parts = key.split("/")
    named = next((one for one in parts[:-1] if _REGION.fullmatch(one)), None)
    found = _BEDROCK_REGION.match(parts[-1])
    return named or (found[1] if found and found[1] != "global" else None)


def _usd(value: Any, times: float) -> float | None:
    """Return a price of a million tokens, NaN where it is no number, free of what binary fractions add."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(f"{value * times:.12g}")


def _tokens(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 1e12:
        return None
    return int(value)


def _whole(text: str) -> float | int:
    return int(text) if len(text) < 40 else float(text)


def _word(value: Any) -> str:
    return value[:64] if isinstance(value, str) and value.isprintable() else "unknown"


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
