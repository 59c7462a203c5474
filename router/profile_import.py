"""From a published catalogue to a profile file: which offers are meant, and their YAML, doubtful prices left out."""

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from router.errors import ConfigError
from router.price_doubts import PriceDoubt, price_doubts
from router.published_catalogue import Offer, PublishedCatalogue, identity_of

# Words that YAML, in this project's reading or another's, takes as they stand.
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./@+-]*")
_RESERVED = frozenset(["null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"])


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """One profile to be written. name: in the log. offers: its endpoints; the first describes it and is asked for."""

    name: str
    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class ProfileImport:
    """What is taken from a catalogue.

    doubts: about any of the catalogue's prices, by key. missing: names that are not in it, with what they may mean.
    """

    catalogue: PublishedCatalogue
    models: tuple[ImportedModel, ...]
    doubts: Mapping[str, PriceDoubt]
    missing: Mapping[str, tuple[str, ...]]

    @property
    def left_out(self) -> tuple[PriceDoubt, ...]:
        """The doubts about the endpoints that are written."""
        return tuple(self.doubts[end.key] for one in self.models for end in one.offers if end.key in self.doubts)

    def is_priced(self, one: Offer) -> bool:
        """Whether an offer is written with its price."""
        return one.is_priced and one.key not in self.doubts

    def render(self) -> str:
        """Return the file's YAML."""
        head = [
            f"# Profiles of models, from {self.catalogue.origin}. Prices are list prices, in USD per million tokens.",
            "# What is not said is unknown: latency, speed, uptime and roles are yours to add (docs/profiles.md).",
        ]
        if self.catalogue.kind == "models-dev":
            head.append("# models.dev hardly says who gives structured output: add the capability json yourself.")
        return "\n".join([*head, *(line for one in self.models for line in ("", *self._lines(one)))]) + "\n"

    def _lines(self, model: ImportedModel) -> list[str]:
        first = model.offers[0]
        lines = [f"{_word(model.name)}:"]
        if first.key != model.name:
            lines.append(f"  gateway_model: {_word(first.key)}")
        lines.append(f"  capabilities: [{', '.join(map(_word, first.capabilities))}]")
        lines.append(f"  modalities: [{', '.join(map(_word, first.modalities))}]")
        if first.context_tokens is not None:
            lines.append(f"  context_tokens: {first.context_tokens}")
        places = {_locality(one) for one in model.offers}
        if len(places) == 1:
            lines.append(f"  locality: {_locality(first)}")
        lines.append("  endpoints:")
        for one in model.offers:
            lines.append(f"    - name: {_word(one.key)}")
            if len(places) > 1:
                lines.append(f"      locality: {_locality(one)}")
            if one.region is not None:
                lines.append(f"      region: {_word(one.region)}")
            doubt = self.doubts.get(one.key)
            if doubt is not None:
                lines.append(f"      # price left out, {doubt.code}: {doubt.detail}")
            elif one.usd_per_mtok_in is None or one.usd_per_mtok_out is None:
                lines.append("      # no price per token published")
            else:
                lines.append(f"      usd_per_mtok_in: {one.usd_per_mtok_in:.12g}")
                lines.append(f"      usd_per_mtok_out: {one.usd_per_mtok_out:.12g}")
        return lines


def select(
    catalogue: PublishedCatalogue,
    names: Sequence[str] = (),
    renamed: Sequence[tuple[str, str]] = (),
    *,
    every: bool = False,
) -> ProfileImport:
    """Choose what to import.

    names: models as the log names them, found by their key in the catalogue or else by what names of one model have
    in common. renamed: pairs of a key in the catalogue and the log's name for it; keys with one name are endpoints of
    one model. every: all other models, too, each by the key that describes it best.

    Raises:
        ConfigError: a key of ``renamed`` is not in the catalogue.
    """
    groups = catalogue.by_identity()
    by_key = {one.key: one for one in catalogue.offers}
    chosen: dict[str, list[Offer]] = {}
    for key, name in renamed:
        offers = _offers(key, by_key, groups)
        if not offers:
            near = _near(key, by_key)
            hint = f", did you mean {' or '.join(near)}?" if near else ""
            raise ConfigError(f"--map {key}={name}: the catalogue has no chat model {key}{hint}")
        kept = chosen.setdefault(name, [])
        kept.extend(one for one in offers if one not in kept)
    missing = {}
    for name in names:
        if name in chosen:
            continue
        offers = _offers(name, by_key, groups)
        if offers:
            chosen[name] = offers
        else:
            missing[name] = _near(name, by_key)
    if every:
        taken = {one.identity for offers in chosen.values() for one in offers}
        chosen |= {group[0].key: group for identity, group in groups.items() if identity not in taken}
    models = tuple(ImportedModel(name, tuple(offers)) for name, offers in chosen.items())
    return ProfileImport(catalogue, models, price_doubts(catalogue.offers), missing)


def check_out(path: Path, *, force: bool) -> None:
    """Raise ConfigError where a file cannot be written to ``path``, or is there and must not be replaced."""
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise ConfigError(f"{path}: expected the name of a file in a directory that is there")
    if path.exists() and not force:
        raise ConfigError(f"{path}: exists already; expected a new name, or --force to replace it")


def write_text(path: Path, text: str, *, force: bool) -> None:
    """Write a file whole or not at all.

    Raises:
        ConfigError: as ``check_out``, or the disk refuses it.
    """
    check_out(path, force=force)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as exc:
        beside.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written: {exc.strerror}") from exc


def _offers(name: str, by_key: Mapping[str, Offer], groups: Mapping[str, list[Offer]]) -> list[Offer]:
    """Return a model's offers, the one of exactly this key first; empty where there is none."""
    exact = by_key.get(name)
    group = groups.get(exact.identity if exact else identity_of(name), [])
    return group if exact is None else [exact, *(one for one in group if one is not exact)]


def _near(name: str, by_key: Mapping[str, Offer]) -> tuple[str, ...]:
    by_length = sorted(by_key, key=lambda one: (-one.count("/"), -len(one), one))
    short = {one.rsplit("/", 1)[-1].lower(): one for one in by_length}  # the shortest wins
    found = difflib.get_close_matches(name.rsplit("/", 1)[-1].lower()[:64], short, 3, cutoff=0.7)
    return tuple(short[one] for one in found)


def _locality(one: Offer) -> str:
    return "local" if one.is_local else "remote"


def _word(text: str) -> str:
    """Return a text as YAML: plain where nobody could take it for something else."""
    if _PLAIN.fullmatch(text) and text.lower() not in _RESERVED:
        return text
    return json.dumps(text, ensure_ascii=False)
