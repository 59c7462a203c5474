"""The parts of a page: tables, notes, pictures and numbers as HTML that needs no script and no other file."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import TypeVar

from training.metrics import Measured

NOTHING = "–"
Row = TypeVar("Row")
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 66rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: .3rem }
h2 { font-size: 1.2rem; margin-top: 2.4rem; border-top: 1px solid #d5dae1; padding-top: 1rem }
.verdict { font-size: 1.15rem; padding: .8rem 1rem; border-left: 6px solid #6b7280; background: #f3f5f8 }
.verdict.route { border-color: #2e7d32 } .verdict.do-not-route { border-color: #b3261e }
.verdict.not-enough-data { border-color: #d9700a }
.note { color: #4b5563; font-size: .92rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .95rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; vertical-align: top; border-bottom: 1px solid #e7eaee }
th { font-weight: 600 } td { white-space: nowrap }
th.text, td.text { text-align: left } td.prompt { white-space: normal; min-width: 20rem; overflow-wrap: anywhere }
tr.own td { font-weight: 600 } small { color: #4b5563; font-weight: 400; display: block }
code { overflow-wrap: anywhere }
img { max-width: 100%; height: auto; display: block; margin: .6rem 0 }
"""


def note_html(text: str) -> str:
    """Return a small paragraph."""
    return f'<p class="note">{escape(text)}</p>\n'


def image_html(plots: Mapping[str, bytes], name: str, alt: str) -> str:
    """Return one of the plots, inside the page."""
    data = base64.b64encode(plots[name]).decode("ascii")
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">\n'


def table_html(
    columns: Sequence[tuple[str, Callable[[Row], str]]],
    rows: Iterable[Row],
    *,
    n_text: int,
    own: Callable[[Row], bool] | None = None,
    prompt_column: int = -1,
) -> str:
    """Return a table; the first ``n_text`` columns are text, rows for which ``own`` holds stand out."""

    def kind(index: int) -> str:
        if index == prompt_column:
            return ' class="text prompt"'
        return ' class="text"' if index < n_text else ""

    head = "".join(f"<th{kind(index)}>{escape(title)}</th>" for index, (title, _) in enumerate(columns))
    lines = []
    for row in rows:
        cells = "".join(
            f"<td{kind(index)}>{_cell(show(row), index < n_text or index == prompt_column)}</td>"
            for index, (_, show) in enumerate(columns)
        )
        stands_out = ' class="own"' if own is not None and own(row) else ""
        lines.append(f"<tr{stands_out}>{cells}</tr>\n")
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{"".join(lines)}</table></div>\n'


def interval_text(measured: Measured, form: Callable[[float], str]) -> str:
    """Return a number and, in brackets, its interval; ``form`` writes one number."""
    text = form(measured.value)
    if measured.low is None or measured.high is None:
        return text
    return f"{text} ({form(measured.low)} to {form(measured.high)})"


def quality_text(measured: Measured) -> str:
    """Return a quality, 0..1, with its interval."""
    return interval_text(measured, lambda value: f"{value:.3f}")


def points_text(measured: Measured | None, *, signed: bool = True) -> str:
    """Return a difference of qualities in points, with its interval."""
    if measured is None:
        return NOTHING
    if measured.value == measured.low == measured.high == 0:
        return "0"  # the best fixed model against itself
    return interval_text(measured, lambda value: signed_text(100 * value, 1) if signed else f"{100 * value:.1f}")


def signed_text(value: float, n_digits: int) -> str:
    """Return the number with its sign, never a negative zero."""
    return f"{round(value, n_digits) + 0.0:+.{n_digits}f}"


def percent_text(measured: Measured) -> str:
    """Return a share, 0..1, in percent with its interval."""
    return interval_text(measured, lambda value: f"{100 * value:.1f}")


def usd_per_1000_text(measured: Measured | None) -> str:
    """Return the USD of 1,000 answers, from the cost of one with its interval."""
    return NOTHING if measured is None else interval_text(measured, lambda value: four_digits(1000 * value))


def four_digits(value: float) -> str:
    """Return four significant digits, trailing zeros kept: ends of an interval are as long as its middle."""
    return f"{value:#.4g}".rstrip(".")


def _cell(text: str, is_text: bool) -> str:
    """Escape; foreign text is kept from changing the direction of its surroundings, intervals are set smaller."""
    if is_text:
        return f"<bdi>{escape(text)}</bdi>"
    value, bracket, interval = text.partition(" (")
    return f"{escape(value)} <small>({escape(interval)}</small>" if bracket else escape(text)
