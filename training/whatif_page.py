"""What a what-if says: as text for a terminal, and as one HTML page with its plots and whatif.json beside it."""

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router import __version__
from router.errors import ConfigError
from training.metrics import N_DRAWS, Measured
from training.page import (
    NOTHING,
    STYLE,
    four_digits,
    image_html,
    interval_text,
    note_html,
    percent_text,
    points_text,
    quality_text,
    signed_text,
    table_html,
)
from training.replay import SEED, Replay
from training.whatif import EXPECTATIONS, REQUESTS, Alone, Difference, IntentLine, Move, PolicyLine, WhatIf
from training.whatif_plots import draw_what_if

PAGE, NUMBERS = "index.html", "whatif.json"
UNKNOWN = "unknown"
N_MOVES_SHOWN = 10
N_INTENTS_SHOWN = 8


def render(found: WhatIf) -> str:
    """Return the numbers for people, in plain text."""
    lines = [EXPECTATIONS, *warnings(found), ""]
    names = [line.name for line in found.policies]
    rows = [("", names), *((title, [show(line) for line in found.policies]) for title, show in _POLICY_ROWS)]
    rows += [(f"to {model}", [_share(line, model) for line in found.policies]) for model in _models(found)]
    rows += [
        (f"reason {reason}", [_of(line.reasons.get(reason, 0), found.n_prompts) for line in found.policies])
        for reason in _keys([line.reasons for line in found.policies])
    ]
    first = max(len(title) for title, _ in rows)
    widths = [max(len(cells[nth]) for _, cells in rows) for nth in range(len(names))]
    for title, cells in rows:
        padded = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        lines.append(f"{title:<{first}}  {padded}".rstrip())
    for line in found.policies:
        lines += [f"no answer under {line.name}: {_prompts(n)}, {why}" for why, n in line.unanswered.items()]
    for one in found.differences:
        lines += ["", *_difference_lines(found, one)]
    return "\n".join(lines)


def warnings(found: WhatIf) -> list[str]:
    """Return what to know before the numbers: of the sample, of training rows, of a verdict that stops routing."""
    lines = []
    if found.n_prompts < found.n_in_log:
        lines.append(f"A sample: {found.n_prompts:,} of the log's {found.n_in_log:,} prompts (seed {found.seed}).")
    if found.n_trained_on:
        lines.append(
            f"{found.n_trained_on:,} of {found.n_prompts:,} prompts are training rows of the artifact: their own"
            " outcomes are part of what is expected of them, so the qualities are too high."
        )
    held = [line.name for line in found.policies if not line.policy.get("route_anyway")]
    if not found.verdict.routes and held:
        lines.append(
            f"The artifact's verdict is {found.verdict.label}: without route_anyway the best fixed model that a policy"
            f" allows answers, so under {', '.join(held)} nothing else is chosen."
        )
    return lines


_POLICY_ROWS: tuple[tuple[str, Callable[[PolicyLine], str]], ...] = (
    ("prompts answered", lambda line: f"{line.n_answered:,}"),
    ("expected quality", lambda line: _known(line.quality, quality_text)),
    ("USD per 1,000 requests", lambda line: _partly(_known(line.usd_per_1000, usd_text), line.n_priced, line)),
    ("mean latency, ms", lambda line: _partly(_known(line.latency_ms, ms_text), line.n_timed, line)),
    ("p95 latency, ms", lambda line: UNKNOWN if line.latency_p95_ms is None else f"{line.latency_p95_ms:,.0f}"),
)


def _difference_lines(found: WhatIf, one: Difference) -> list[str]:
    usd = _with_unit(_known(one.usd_per_1000, signed_usd_text), "USD per 1,000")
    moved = f"{one.n_changed:,} of {found.n_prompts:,} prompts, {_with_unit(percent_text(one.changed), '%')}"
    lines = [
        f"{one.after} instead of {one.before}",
        f"  another model   {moved}",
        f"  quality         {_with_unit(_known(one.quality, points_text), 'points')}",
        f"  cost            {usd}",
        f"  latency         {_with_unit(_known(one.latency_ms, signed_ms_text), 'ms')}",
    ]
    if one.observed is not None:
        lines += [f"  observed        {text}" for text in observed_texts(one)]
    lines += [f"  move            {_move_text(move)}" for move in one.moves[:N_MOVES_SHOWN]]
    rest = one.moves[N_MOVES_SHOWN:]
    if rest:
        lines.append(f"  other moves     {sum(move.n for move in rest):,} prompts, {len(rest)} pairs of models")
    changed = [line for line in one.intents if line.n_changed]
    lines += [f"  intent          {_intent_text(line)}" for line in changed[:N_INTENTS_SHOWN]]
    if len(changed) > N_INTENTS_SHOWN:
        lines.append(f"  other intents   {len(changed) - N_INTENTS_SHOWN}, see --out or --json")
    return lines


def observed_texts(one: Difference) -> list[str]:
    """Return what the log's own outcomes say of both policies, one line each; empty where there are none."""
    own = one.observed
    if own is None:
        return []
    lines = []
    if own.before is not None and own.after is not None:
        lines.append(
            f"{own.n:,} prompts have scores of both choices: {one.after} {quality_text(own.after)},"
            f" {one.before} {quality_text(own.before)}, difference {_with_unit(points_text(own.difference), 'points')}"
        )
    n = own.won + own.tied + own.lost
    if own.points is not None:
        lines.append(
            f"{n:,} moved prompts have the two models compared: the new one won {own.won:,}, tied {own.tied:,},"
            f" lost {own.lost:,}; {_with_unit(percent_text(own.points), '% of the points')}"
        )
    if not lines:
        lines.append("the log has no outcome of two different choices on the same prompt")
    return lines


def write_page(directory: str | Path, found: WhatIf, done: Replay) -> Path:
    """Write index.html, whatif.json and the plots, and return the page's path; an older page there is replaced.

    Raises:
        ConfigError: a file cannot be written, or matplotlib is missing.
    """
    target = Path(directory)
    plots = draw_what_if(found, usd_differences(done))
    numbers = json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n"
    contents = {**plots, NUMBERS: numbers.encode(), PAGE: render_page(found, plots).encode("utf-8", "replace")}
    try:
        target.mkdir(parents=True, exist_ok=True)
        for pattern in ("cost-difference-*.png", "intents-*.png", "cost-quality.png"):
            for stale in target.glob(pattern):
                stale.unlink()
        for name, raw in contents.items():
            (target / name).write_bytes(raw)
    except OSError as exc:
        raise ConfigError(f"{target}: the page cannot be written: {exc.strerror or exc}") from exc
    return target / PAGE


def usd_differences(done: Replay) -> list[NDArray[np.float64]]:
    """Return, per policy but the first, every prompt's difference in USD per 1,000 requests like it."""
    return [REQUESTS * (own - done.costs_usd[0]) for own in done.costs_usd[1:]]


def render_page(found: WhatIf, plots: Mapping[str, bytes]) -> str:
    """Return the page as HTML."""
    sections = [("The policies", _policies(found)), ("Share per model", _shares(found, plots))]
    if "cost-quality.png" in plots:
        sections.append(("Quality and cost", _cost_quality(found, plots)))
    else:
        sections.append(("Each model alone", _alone(found.alone)))
    for nth, one in enumerate(found.differences, start=1):
        sections.append((f"{one.after} instead of {one.before}", _difference(found, one, nth, plots)))
    sections.append(("How this was made", _made(found)))
    body = "\n".join(f"<h2><bdi>{escape(title)}</bdi></h2>\n{content}" for title, content in sections)
    said = "".join(f"<p><strong>{escape(text)}</strong></p>\n" for text in warnings(found))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>whichmodel what-if</title>
<style>{STYLE}</style>
</head>
<body>
<h1>What if another policy were in force?</h1>
<p class="verdict">{escape(EXPECTATIONS)}</p>
{said}
{body}
</body>
</html>
"""


def _policies(found: WhatIf) -> str:
    columns: list[tuple[str, Callable[[PolicyLine], str]]] = [
        ("policy", lambda line: line.name),
        ("fields", lambda line: ", ".join(f"{name}={_value(value)}" for name, value in line.policy.items()) or NOTHING),
        *_POLICY_ROWS,
    ]
    note = (
        f"{found.n_prompts:,} prompts. Means are over the answered prompts of which the number is known. The p95 is"
        " taken over the prompts' expected times: it is no tail of any endpoint."
    )
    parts = [note_html(note), table_html(columns, found.policies, n_text=2)]
    refused = [(line.name, why, n) for line in found.policies for why, n in line.unanswered.items()]
    if refused:
        parts.append("<h3>No answer</h3>")
        parts.append(
            table_html(
                [
                    ("policy", lambda one: one[0]),
                    ("what left no model", lambda one: one[1]),
                    ("prompts", lambda one: _of(one[2], found.n_prompts)),
                ],
                refused,
                n_text=2,
                prompt_column=1,
            )
        )
    parts.append("<h3>Why a model was chosen</h3>")
    reasons: list[tuple[str, Callable[[str], str]]] = [("reason", lambda reason: reason)]
    reasons += [(line.name, _reason_cell(line, found.n_prompts)) for line in found.policies]
    parts.append(table_html(reasons, _keys([line.reasons for line in found.policies]), n_text=1))
    return "".join(parts)


def _reason_cell(line: PolicyLine, n_prompts: int) -> Callable[[str], str]:
    return lambda reason: _of(line.reasons.get(reason, 0), n_prompts)


def _share_cell(line: PolicyLine) -> Callable[[str], str]:
    return lambda model: _share(line, model)


def _shares(found: WhatIf, plots: Mapping[str, bytes]) -> str:
    columns: list[tuple[str, Callable[[str], str]]] = [("model", lambda model: model)]
    columns += [(f"{line.name}, %", _share_cell(line)) for line in found.policies]
    return image_html(plots, "shares.png", "share of prompts per model and policy") + table_html(
        columns, _models(found), n_text=1
    )


def _cost_quality(found: WhatIf, plots: Mapping[str, bytes]) -> str:
    note = (
        "Stars are the policies with the 95 % intervals of their means, dots are single models without any policy. A"
        " model that cannot take every prompt is in the table alone."
    )
    return (
        image_html(plots, "cost-quality.png", "expected quality against cost") + note_html(note) + _alone(found.alone)
    )


def _alone(models: Sequence[Alone]) -> str:
    columns: list[tuple[str, Callable[[Alone], str]]] = [
        ("always", lambda one: one.model),
        ("prompts it can take", lambda one: f"{one.n:,}"),
        ("expected quality", lambda one: _number(one.quality, ".3f")),
        ("USD per 1,000 requests", lambda one: UNKNOWN if one.usd_per_1000 is None else four_digits(one.usd_per_1000)),
        ("mean latency, ms", lambda one: _number(one.latency_ms, ",.0f")),
    ]
    return table_html(columns, models, n_text=1)


def _difference(found: WhatIf, one: Difference, nth: int, plots: Mapping[str, bytes]) -> str:
    facts = [
        ("another model, % of prompts", percent_text(one.changed)),
        ("expected quality, points", _known(one.quality, points_text)),
        ("USD per 1,000 requests", _known(one.usd_per_1000, signed_usd_text)),
        ("latency, ms", _known(one.latency_ms, signed_ms_text)),
    ]
    note = (
        f"Paired, prompt by prompt, over the {one.n_paired:,} prompts that both policies answer (of these, where the"
        " number is known); a point is 0.01 of quality, in brackets 95 % intervals."
    )
    parts = [note_html(note), table_html([("", lambda fact: fact[0]), ("", lambda fact: fact[1])], facts, n_text=1)]
    if one.observed is not None:
        parts.append("<h3>What the log's own outcomes say</h3>\n")
        parts += [f"<p>{escape(text[:1].upper() + text[1:])}.</p>\n" for text in observed_texts(one)]
    name = f"cost-difference-{nth}.png"
    if name in plots:
        parts.append(image_html(plots, name, "histogram of the difference in cost"))
    if one.moves:
        columns: list[tuple[str, Callable[[Move], str]]] = [
            ("from", lambda move: _named(move.before)),
            ("to", lambda move: _named(move.after)),
            ("prompts", lambda move: f"{move.n:,}"),
            ("% of prompts", lambda move: f"{100 * move.share:.1f}"),
            ("quality, points", lambda move: UNKNOWN if move.quality is None else signed_text(100 * move.quality, 1)),
            ("USD per 1,000", lambda move: _number(move.usd_per_1000, "+.3g")),
        ]
        parts += ["<h3>Moves</h3>\n", table_html(columns, one.moves, n_text=2)]
    if one.intents:
        parts += ["<h3>By intent</h3>\n", _intents(found, one, nth, plots)]
    return "".join(parts)


def _intents(found: WhatIf, one: Difference, nth: int, plots: Mapping[str, bytes]) -> str:
    source = "as labelled in the log" if found.intents_from == "log" else "as read from the neighbours"
    columns: list[tuple[str, Callable[[IntentLine], str]]] = [
        ("intent", lambda line: line.intent),
        ("most frequent move", lambda line: _arrow(line.moves[0]) if line.moves else NOTHING),
        ("prompts", lambda line: f"{line.n:,}"),
        ("moved", lambda line: _of(line.n_changed, line.n)),
        ("quality, points", lambda line: _known(line.quality, points_text)),
        ("USD per 1,000", lambda line: _known(line.usd_per_1000, signed_usd_text)),
    ]
    name = f"intents-{nth}.png"
    picture = image_html(plots, name, "share of prompts that move per intent") if name in plots else ""
    note = f"Intents {source}; the intervals are not corrected for looking at many."
    return picture + note_html(note) + table_html(columns, one.intents, n_text=2)


def _made(found: WhatIf) -> str:
    facts = [
        ("whichmodel", __version__),
        ("artifact", f"{found.artifact_id or '(unwritten)'}, {found.tier} tier"),
        ("verdict in training", found.verdict.text),
        ("prompts", f"{found.n_prompts:,} of {found.n_in_log:,}"),
        ("sample and exploration", f"seed {found.seed}"),
        ("intervals", f"{N_DRAWS} resamples of prompts (seed {SEED}), near-duplicates together"),
    ]
    table = table_html([("", lambda one: one[0]), ("", lambda one: one[1])], facts, n_text=1, prompt_column=1)
    return table + note_html("What each number means: docs/whatif.md. The same numbers for programs: whatif.json.")


def usd_text(measured: Measured) -> str:
    """Return an amount of USD with its interval."""
    return interval_text(measured, four_digits)


def ms_text(measured: Measured) -> str:
    """Return a time in ms with its interval."""
    return interval_text(measured, lambda value: f"{value:,.0f}")


def signed_usd_text(measured: Measured) -> str:
    """Return a difference of USD with its interval."""
    return interval_text(measured, lambda value: f"{value + 0.0:+.3g}")


def signed_ms_text(measured: Measured) -> str:
    """Return a difference of times in ms with its interval."""
    return interval_text(measured, lambda value: f"{round(value) + 0:+,d}")


def _known(measured: Measured | None, form: Callable[[Measured], str]) -> str:
    return UNKNOWN if measured is None else form(measured)


def _with_unit(text: str, unit: str) -> str:
    """Put the unit behind the number, before its interval; nothing behind what is unknown."""
    value, bracket, interval = text.partition(" (")
    return text if text == UNKNOWN else f"{value} {unit}{bracket}{interval}"


def _partly(text: str, n_known: int, line: PolicyLine) -> str:
    return text if n_known in (0, line.n_answered) else f"{text}, of {n_known:,} prompts"


def _number(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)


def _of(count: int, n: int) -> str:
    return f"{count:,} ({100 * count / n:.1f} %)"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _share(line: PolicyLine, model: str) -> str:
    own = next((one.share for one in line.shares if one.model == model), None)
    return "0.0" if own is None else percent_text(own)


def _models(found: WhatIf) -> list[str]:
    """Return the models that any policy chooses, the most often chosen first."""
    most: dict[str, int] = {}
    for line in found.policies:
        for one in line.shares:
            most[one.model] = max(most.get(one.model, 0), one.n)
    return sorted(most, key=lambda name: (-most[name], name))


def _keys(counted: Sequence[Mapping[str, int]]) -> list[str]:
    return list(dict.fromkeys(key for own in counted for key in own))


def _named(model: str | None) -> str:
    return "(no answer)" if model is None else model


def _arrow(move: Move) -> str:
    return f"{_named(move.before)} → {_named(move.after)}"


def _move_text(move: Move) -> str:
    text = f"{_arrow(move)}: {_prompts(move.n)}, {100 * move.share:.1f} %"
    if move.quality is not None:
        text += f", {signed_text(100 * move.quality, 1)} points"
    return text if move.usd_per_1000 is None else f"{text}, {move.usd_per_1000:+.3g} USD per 1,000"


def _intent_text(line: IntentLine) -> str:
    quality = _with_unit(_known(line.quality, points_text), "points")
    often = f"{_arrow(line.moves[0])} ({line.moves[0].n:,})"
    return f"{line.intent}: {line.n_changed:,} of {line.n:,} move, {quality}; most often {often}"


def _prompts(n: int) -> str:
    return f"{n:,} prompt{'' if n == 1 else 's'}"
