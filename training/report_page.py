"""The report page: one HTML file without scripts or outside resources, its plots beside it, and report.json.

Numbers come from findings.py, plots from plots.py. Prompts stand on the page only where they are asked for.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from router import __version__
from router.artifact import RouterArtifact
from router.errors import ConfigError
from router.types import JsonObject
from training.canvas import require_matplotlib
from training.evaluate import Judged
from training.findings import (
    MIN_INTERVAL_ROWS,
    SEED,
    CostQuality,
    Example,
    Findings,
    IntentLine,
    Line,
    Setting,
    Share,
    Tally,
    TwoModels,
    findings,
)
from training.learning_curve import CurvePoint, LearningCurve
from training.metrics import N_DRAWS, Measured
from training.page import (
    NOTHING,
    STYLE,
    four_digits,
    image_html,
    note_html,
    percent_text,
    points_text,
    quality_text,
    signed_text,
    table_html,
    usd_per_1000_text,
)
from training.plots import draw_plots
from training.report import Report
from training.verdict import rounded

PAGE, NUMBERS = "index.html", "report.json"
PLOTS = (
    "cost-quality.png",
    "two-models.png",
    "intents.png",
    "reliability.png",
    "shares.png",
    "learning-curve.png",
)
MAX_PROMPT_CHARS = 200


def check_directory(directory: str | Path) -> None:
    """Raise ConfigError, before the work whose result goes there, where ``write_report`` could not write."""
    require_matplotlib()
    if Path(directory).exists() and not Path(directory).is_dir():
        raise ConfigError(f"{directory}: is a file; expected a directory to write the report to")


def write_report(
    directory: str | Path, artifact: RouterArtifact, judged: Judged, report: Report, *, show_prompts: bool = False
) -> Path:
    """Write index.html, report.json and the plots, and return the page's path; an older report there is replaced.

    show_prompts: examples show the first 200 characters of their prompts. Without it they show as much as the
    artifact itself stores of any prompt, which is nothing by default, and row numbers and hashes.

    Raises:
        ConfigError: a file cannot be written, or matplotlib is missing.
    """
    check_directory(directory)
    target, artifact = Path(directory), artifact.only(judged.tier)
    found = findings(judged, artifact.report)
    plots = draw_plots(found, judged.best_fixed)
    page = render_page(artifact, judged, report, found, plots, show_prompts=show_prompts)
    numbers = json.dumps(to_json(report, found), indent=1, allow_nan=False) + "\n"
    contents = {**plots, NUMBERS: numbers.encode(), PAGE: page.encode("utf-8", "replace")}
    try:
        target.mkdir(parents=True, exist_ok=True)
        for stale in set(PLOTS) - set(plots):
            (target / stale).unlink(missing_ok=True)
        for name, raw in contents.items():
            (target / name).write_bytes(raw)
    except OSError as exc:
        raise ConfigError(f"{target}: the report cannot be written: {exc.strerror or exc}") from exc
    return target / PAGE


def to_json(report: Report, found: Findings) -> JsonObject:
    """Return the content of report.json: what ``eval --json`` prints and what the page adds, without prompts."""
    return {"report": report.to_json(), "findings": asdict(found), "n_draws": N_DRAWS, "seed": SEED}


def render_page(
    artifact: RouterArtifact,
    judged: Judged,
    report: Report,
    found: Findings,
    plots: Mapping[str, bytes],
    *,
    show_prompts: bool,
) -> str:
    """Return the page as HTML."""
    stored = max((len(one) for one in artifact.prompts or ()), default=0)
    n_chars = MAX_PROMPT_CHARS if show_prompts else min(MAX_PROMPT_CHARS, stored)
    sections = [
        ("Against fixed models", _outcome(report, found)),
        ("Cost and quality", _cost_quality(found.cost_quality, plots)),
        ("Two models", _two_models(found.two_models, plots)),
        ("Quality per intent", _intents(found, plots)),
        ("Are the predictions right?", _reliability(report, found, plots)),
        ("What is chosen", _shares(judged.best_fixed, found.shares, plots)),
        ("Where the router leaves the fixed model", _deviations(judged, report, found, n_chars)),
        ("Leaks", _leaks(found)),
        ("Would more data help?", _learning_curve(found.learning_curve, plots)),
        ("How this was made", _made(artifact, report)),
    ]
    body = "\n".join(f"<h2>{escape(title)}</h2>\n{content}" for title, content in sections if content)
    label = report.verdict.label
    leaked = ""
    n_leaked = found.n_trained_on + found.n_near
    if n_leaked == report.n_prompts:
        leaked = (
            "<p><strong>Every prompt was trained on, or nearly so: this says nothing about new prompts.</strong></p>"
        )
    elif n_leaked:
        leaked = (
            f"<p><strong>{n_leaked} of {report.n_prompts} prompts were trained on, or nearly so</strong>: without"
            f" them the gain is {points_text(found.parts[-1].gain)} points; see Leaks.</p>"
        )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>whichmodel report: {escape(label)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Is routing worth it?</h1>
<p class="verdict {label.lower().replace(" ", "-")}">{escape(report.verdict.text)}</p>
{leaked}
{body}
</body>
</html>
"""


def _outcome(report: Report, found: Findings) -> str:
    columns: list[tuple[str, Callable[[Line], str]]] = [
        ("", lambda one: one.name),
        ("model", lambda one: one.model or NOTHING),
        ("quality", lambda one: quality_text(one.quality)),
        ("gain in points", lambda one: points_text(one.gain)),
    ]
    if any(one.cost_usd is not None for one in found.lines):
        columns.append(("USD per 1,000 answers", lambda one: usd_per_1000_text(one.cost_usd)))
    if any(one.regret is not None for one in found.lines):
        columns.append(("regret in points", lambda one: points_text(one.regret, signed=False)))
    unit = "the score" if report.kind == "scores" else "the win rate against the logged opponents (doubly robust)"
    note = (
        f"{report.n_prompts} prompts, {len(report.models)} models. Quality is {unit}; a point is 0.01 of it. In"
        " brackets 95 % intervals; a gain is paired, prompt by prompt, with the best fixed model of the training rows."
        " The best in hindsight was picked on these very prompts."
    )
    if any(one.regret is not None for one in found.lines):
        note += " The oracle knows every score beforehand and takes the cheapest of the best; nobody can do better."
    if report.kind == "battles":
        note += " The estimate corrects a model of the outcome by the logged outcomes and may pass 0 or 1 on few rows."
    if report.effective_comparisons is not None:
        note += f" {report.effective_comparisons:.0f} effective comparisons carry the router's value."
    return note_html(note) + table_html(columns, found.lines, n_text=2, own=lambda one: one.name == "router")


def _cost_quality(plane: CostQuality | None, plots: Mapping[str, bytes]) -> str:
    if plane is None:
        return ""
    low, high = (four_digits(1000 * one) for one in plane.range_usd)
    rows = [
        ("router", plane.aiq),
        ("zero router: best mixture of fixed models", plane.zero_router_aiq),
        ("difference", plane.aiq_gain),
    ]
    note = (
        "Every point of the curve is one willingness to pay, chosen anew from the estimates as /route would, its guard"
        " before leaving the fixed model included; the star is the router as it is, at its own setting. AIQ is the mean"
        " height of the non-decreasing hull between the mean costs of the cheapest and the dearest single"
        f" model, here {low} to {high} USD per 1,000 answers."
    )
    columns: list[tuple[str, Callable[[Setting], str]]] = [
        ("willingness to pay, USD per unit of quality", lambda one: _willingness(one.willingness_to_pay_usd)),
        ("USD per 1,000 answers", lambda one: four_digits(1000 * one.cost_usd)),
        ("quality", lambda one: f"{one.quality:.4f}"),
    ]
    settings = table_html(columns, plane.settings, n_text=0)
    table = table_html([("AIQ", lambda one: one[0]), ("", lambda one: quality_text(one[1]))], rows, n_text=1)
    return (
        image_html(plots, "cost-quality.png", "quality against cost of router and fixed models")
        + note_html(note)
        + table
        + f"<details><summary>All settings of the curve</summary>{settings}</details>"
    )


def _willingness(usd: float | None) -> str:
    return "cost does not matter" if usd is None else f"{usd:.3g}"


def _two_models(pair: TwoModels | None, plots: Mapping[str, bytes]) -> str:
    if pair is None:
        return ""
    rows = [
        ("APGR (a coin: 0.5)", quality_text(pair.apgr)),
        (f"CPT(50 %): % of calls to {pair.strong}", percent_text(pair.cpt50)),
        (f"CPT(80 %): % of calls to {pair.strong}", percent_text(pair.cpt80)),
    ]
    note = (
        "As RouteLLM counts: the prompts with the largest estimated lead of the stronger model go to it first, at the"
        " deciles of that lead. APGR is the average part of the gap between the two models that is recovered, CPT the"
        " share of calls to the stronger one that recovers so much."
    )
    table = table_html([("", lambda one: one[0]), ("", lambda one: one[1])], rows, n_text=1)
    return image_html(plots, "two-models.png", "quality against share of strong calls") + note_html(note) + table


def _intents(found: Findings, plots: Mapping[str, bytes]) -> str:
    if not found.intents:
        return ""
    columns: list[tuple[str, Callable[[IntentLine], str]]] = [
        ("intent", lambda one: one.intent),
        ("most chosen", lambda one: one.most_chosen),
        ("prompts", lambda one: str(one.n)),
        ("support", lambda one: f"{one.support:.0f}"),
        ("router", lambda one: quality_text(one.router)),
        ("best fixed", lambda one: quality_text(one.fixed)),
        ("gain in points", lambda one: points_text(one.gain)),
    ]
    source = "as labelled in this log" if found.intents_from == "log" else "as read from the neighbours; no label here"
    note = (
        f"Intents {source}. Support is the mean number of logged comparisons near a prompt that speak of the chosen"
        f" model. No interval below {MIN_INTERVAL_ROWS} prompts; the intervals are not corrected for looking at many"
        " intents."
    )
    image = image_html(plots, "intents.png", "quality per intent of router and best fixed model")
    return image + note_html(note) + table_html(columns, found.intents, n_text=2)


def _reliability(report: Report, found: Findings, plots: Mapping[str, bytes]) -> str:
    if not found.reliability:
        return ""
    what = (
        "Predicted quality against the score."
        if report.kind == "scores"
        else "Predicted P(a beats b) against the logged battles, a tie counting one half."
    )
    note = (
        f"{what} Each point is a bin of about equally many predictions with the 95 % interval of its outcome. The error"
        " is the root mean square distance from the diagonal, debiased (Kumar, Liang & Ma 2019), so that noise alone"
        " gives 0; ECE is the usual mean distance, which noise alone makes larger."
    )
    table = table_html(
        [
            ("", lambda item: item[0]),
            ("predictions", lambda item: str(item[1].n)),
            ("bins", lambda item: str(len(item[1].bins))),
            ("calibration error, debiased", lambda item: quality_text(item[1].error)),
            ("ECE", lambda item: f"{item[1].ece:.4f}"),
        ],
        list(found.reliability.items()),
        n_text=1,
    )
    return image_html(plots, "reliability.png", "outcome against prediction") + note_html(note) + table


def _shares(best_fixed: str, shares: Sequence[Share], plots: Mapping[str, bytes]) -> str:
    columns: list[tuple[str, Callable[[Share], str]]] = [
        ("model", lambda one: one.model),
        ("prompts", lambda one: str(one.n)),
        ("% of prompts", lambda one: percent_text(one.share)),
    ]
    table = table_html(columns, shares, n_text=1, own=lambda one: one.model == best_fixed)
    return (
        image_html(plots, "shares.png", "share of prompts per model")
        + note_html(f"How often the router chose each model; the best fixed model, {best_fixed}, stands out.")
        + table
    )


def _deviations(judged: Judged, report: Report, found: Findings, n_chars: int) -> str:
    every = found.deviations[0]
    share = 100 * every.n / max(report.n_prompts, 1)
    if not every.n:
        return f"<p>Nowhere: every prompt went to {escape(judged.best_fixed)}.</p>"
    columns: list[tuple[str, Callable[[Tally], str]]] = [
        ("went to", lambda one: one.model or "any other model"),
        ("prompts", lambda one: str(one.n)),
        ("won", lambda one: str(one.wins)),
        ("tied", lambda one: str(one.ties)),
        ("lost", lambda one: str(one.losses)),
        ("mean gain in points", lambda one: NOTHING if one.gain is None else points_text(one.gain)),
    ]
    how = "prompts with both scores" if report.kind == "scores" else "prompts where just these two fought"
    note = (
        f"The router left {judged.best_fixed} on {every.n} of {report.n_prompts} prompts ({share:.0f} %). Won, tied and"
        f" lost count {how}; the mean gain is over all {every.n}. A predicted lead is one of quality: where it is"
        " negative, the choice was for lower cost."
    )
    parts = [note_html(note), table_html(columns, found.deviations, n_text=1, own=lambda one: one.model is None)]
    for title, examples in (("Largest gains", found.best), ("Largest losses", found.worst)):
        if examples:
            parts.append(f"<h3>{title}</h3>{_examples(judged, examples, n_chars)}")
    if not n_chars and (found.best or found.worst):
        parts.append(note_html("Prompts are left out: the artifact stores none. --show-prompts puts them here."))
    return "".join(parts)


def _examples(judged: Judged, examples: Sequence[Example], n_chars: int) -> str:
    columns: list[tuple[str, Callable[[Example], str]]] = [
        ("row", lambda one: str(one.row)),
        ("chosen", lambda one: one.chosen),
        ("gain", lambda one: signed_text(one.gain, 2)),
        ("predicted lead", lambda one: signed_text(one.predicted_lead, 2)),
        ("hash", lambda one: one.prompt_hash),
    ]
    if n_chars:
        columns[-1] = ("prompt", lambda one: _excerpt(judged.table.originals[one.row], n_chars))
    return table_html(columns, examples, n_text=2, prompt_column=len(columns) - 1)


def _excerpt(text: str, n_chars: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= n_chars else f"{flat[: n_chars - 1]}…"


def _leaks(found: Findings) -> str:
    note = (
        f"{found.n_trained_on} prompts are training rows of the artifact, word for word, and {found.n_near} more are"
        " near-duplicates: they have a training row above 0.95 cosine in the artifact's space. On such prompts a router"
        " that looks things up is not put to the test."
    )
    table = table_html(
        [
            ("", lambda one: one.name),
            ("prompts", lambda one: str(one.n)),
            ("router", lambda one: quality_text(one.router)),
            ("best fixed", lambda one: quality_text(one.fixed)),
            ("gain in points", lambda one: points_text(one.gain)),
        ],
        found.parts,
        n_text=1,
    )
    return note_html(note) + table


def _learning_curve(curve: LearningCurve | None, plots: Mapping[str, bytes]) -> str:
    if curve is None:
        return ""
    note = (
        "From the training of the artifact, not from this log: the held-out gain when only so many of its rows are"
        " learnt from. All sizes are judged on the same prompts, so their intervals go up and down together."
    )
    if curve.projection is not None:
        note += (
            f" The band is the interval to be expected in a larger log if the true gain is"
            f" {signed_text(100 * curve.projection.target, 1)} points, the larger of the observed gain and the margin;"
            " its width shrinks with the root of the rows. That more rows may also make the router better is left out."
        )
    columns: list[tuple[str, Callable[[CurvePoint], str]]] = [
        ("training rows", lambda one: f"{one.n_rows:,}"),
        ("gain in points", lambda one: points_text(Measured(one.gain.mean, one.gain.low, one.gain.high))),
    ]
    table = table_html(columns, curve.points, n_text=0)
    answer = f"<p><strong>{escape(_would_help(curve))}</strong></p>\n"
    image = image_html(plots, "learning-curve.png", "gain against the number of training rows")
    return answer + image + note_html(note) + table


def _would_help(curve: LearningCurve) -> str:
    """Return one sentence: how many rows the verdict needs, or what the last doubling brought."""
    if curve.rows_needed is not None:
        text = f"The verdict asks for about {curve.rows_needed:,} rows, and there were {curve.n_rows:,}"
        ahead = curve.projection
        if ahead is None or ahead.leaves_zero_at is None:
            return f"{text}."
        return (
            f"{text}: if the true gain is {signed_text(100 * ahead.target, 1)} points, about"
            f" {rounded(ahead.leaves_zero_at):,} rows show it in every second case."
        )
    change = curve.last_doubling()
    if change is None:
        return f"The verdict asks for no more rows than the {curve.n_rows:,} that there were."
    return (
        f"The last doubling of the training rows, to {curve.points[-1].n_rows:,}, changed the gain by"
        f" {signed_text(100 * change, 1)} points."
    )


def _made(artifact: RouterArtifact, report: Report) -> str:
    trained = artifact.report.get("verdict", {})
    facts = [
        ("whichmodel", __version__),
        ("artifact", f"{artifact.id or '(unwritten)'}, {artifact.n_rows} rows, {len(artifact.models)} models"),
        ("verdict in training", str(trained.get("text", "")) if isinstance(trained, dict) else ""),
        ("the router's setting", _strategy(artifact)),
        ("tier judged", f"{artifact.best.name}, encoder {artifact.best.encoder.settings.name}"),
        ("models of the log left out", ", ".join(report.details.get("unknown_models", [])) or "none"),
        ("intervals", f"{N_DRAWS} resamples of prompts for AIQ, APGR, CPT and calibration (seed {SEED}); else normal"),
    ]
    table = table_html([("", lambda one: one[0]), ("", lambda one: one[1])], facts, n_text=1, prompt_column=1)
    return table + note_html("What each number means: docs/report.md. The same numbers for programs: report.json.")


def _strategy(artifact: RouterArtifact) -> str:
    usd = artifact.strategies[artifact.default_strategy]
    amount = "cost does not matter" if usd is None else f"{usd:.3g} USD for one unit of quality"
    return f"{artifact.default_strategy}: {amount}"
