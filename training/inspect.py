"""What a preference log holds and how healthy it is, before anything is trained on it.

``inspect_log`` measures, ``render`` writes the same for people. Near-duplicates are told by normalised text here.
"""

import datetime as dt
import math
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

from router.estimate import Z95
from router.prompt import find_template
from training.comparisons import MIN_PROMPTS, Comparison, PreferenceLog, SourceSummary

MAX_USER_SHARE = 0.2
STAR_SHARE = 0.9
"""One model in at least this share of the comparisons of two models makes the log a star."""
N_SCRIPT_PROMPTS = 5_000
N_SCRIPT_CHARS = 2_000
N_SHOWN_REFUSALS = 5
N_SHOWN = 12

Pair = tuple[str, str]


def inspect_log(log: PreferenceLog) -> dict[str, Any]:
    """Return everything there is to say about a log, as values that JSON can hold.

    Shares and rates are 0..1. A model's win rate counts a tie as half and both_bad as a loss of both. Position-A's win
    rate leaves ties and both_bad out; its interval is Wilson's, 95 %. A pair is two models that were compared on a
    row: the sides of a battle, or any two with scores. ``warnings`` are whole sentences.
    """
    rows = log.comparisons
    battles = [row for row in rows if row.scores is None]
    pairs = count_pairs(rows)
    report: dict[str, Any] = {
        "sources": [_source_json(source) for source in log.sources],
        "rows": {
            "comparisons": len(rows),
            "battles": len(battles),
            "scored": len(rows) - len(battles),
            "refused": len(log.refusals),
            "first_refusals": [str(refusal) for refusal in log.refusals[:N_SHOWN_REFUSALS]],
        },
        "notes": dict(log.notes),
        "prompts": _prompts(rows),
        "models": _models(rows),
        "intents": _counts(row.intent for row in rows),
        "battles": _battles(battles),
        "judges": _counts(row.judge for row in rows),
        "users": _users(rows),
        "pairs": _coverage(pairs, log.models),
        "graph": _graph(pairs, log.models),
        "measured": {
            "cost_usd_share": _share(sum(row.costs_usd is not None for row in rows), len(rows)),
            "latency_ms_share": _share(sum(row.latencies_ms is not None for row in rows), len(rows)),
            "output_tokens_share": _share(sum(row.output_tokens is not None for row in rows), len(rows)),
        },
        "scripts": _scripts([row.prompt for row in rows]),
        "template": _template([row.prompt for row in rows]),
        "time": _time_span(rows),
    }
    report["warnings"] = _warnings(report)
    return report


def normalise(text: str) -> str:
    """Return a text without case, and with every run of spaces, punctuation and controls as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_SPACED).split())


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a share; 0..1 where nothing was tried."""
    if not trials:
        return 0.0, 1.0
    share = successes / trials
    spread = Z95 * math.sqrt(share * (1 - share) / trials + Z95**2 / (4 * trials**2))
    centre = share + Z95**2 / (2 * trials)
    scale = 1 + Z95**2 / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def count_pairs(rows: Iterable[Comparison]) -> Counter[Pair]:
    """Return {(model, model) in alphabetical order: rows that compare the two}."""
    together: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        names = row.scores if row.scores is not None else (row.model_a or "", row.model_b or "")
        together[tuple(sorted(names))] += 1
    pairs: Counter[Pair] = Counter()
    for models, count in together.items():
        for pair in combinations(models, 2):
            pairs[pair] += count
    return pairs


def components(pairs: Iterable[Pair], models: Sequence[str]) -> list[list[str]]:
    """Return the groups of models that are connected by comparisons, the largest first, names sorted."""
    root = {name: name for name in models}

    def find(name: str) -> str:
        while root[name] != name:
            root[name] = root[root[name]]
            name = root[name]
        return name

    for one, other in pairs:
        root[find(one)] = find(other)
    groups: dict[str, list[str]] = {}
    for name in sorted(models):
        groups.setdefault(find(name), []).append(name)
    return sorted(groups.values(), key=lambda group: (-len(group), group))


class _Spaced(dict[int, int]):
    """A translation table that learns each character as it comes: separators to a space, the rest as it is."""

    def __missing__(self, code: int) -> int:
        is_separator = unicodedata.category(chr(code))[0] in "PZC"
        self[code] = ord(" ") if is_separator else code
        return self[code]


_SPACED = _Spaced()


def _source_json(source: SourceSummary) -> dict[str, Any]:
    return {
        "name": source.name,
        "format": source.format,
        "recognised_by": source.recognised_by,
        "rows": source.n_rows,
        "kept": source.n_kept,
        "sha256": source.sha256,
        "columns": [{"name": one.name, "role": one.role, "reason": one.reason} for one in source.columns],
    }


def _prompts(rows: Sequence[Comparison]) -> dict[str, Any]:
    exact = Counter(row.prompt for row in rows)
    # A text of punctuation alone has nothing left when normalised; it stands for itself.
    keys = {normalise(text) or text for text in exact}
    identical = {
        (
            (row.prompt, row.intent, row.judge, row.user, row.timestamp, row.weight),
            (row.model_a, row.model_b, row.winner),
            tuple(sorted((row.scores or {}).items())),
        )
        for row in rows
    }
    lengths = [len(text) for text in exact]
    return {
        "unique": len(keys),
        "unique_exact": len(exact),
        "near_duplicates": len(exact) - len(keys),
        "repeated_rows": len(rows) - len(exact),
        "identical_rows": len(rows) - len(identical),
        "chars_median": statistics.median(lengths) if lengths else None,
        "chars_max": max(lengths, default=None),
    }


def _models(rows: Sequence[Comparison]) -> dict[str, dict[str, Any]]:
    scores: dict[str, list[float]] = {}
    points: dict[str, list[float]] = {}
    for row in rows:
        if row.scores is not None:
            for name, score in row.scores.items():
                scores.setdefault(name, []).append(score)
        elif row.model_a is not None and row.model_b is not None:
            points.setdefault(row.model_a, []).append({"model_a": 1.0, "tie": 0.5}.get(row.winner or "", 0.0))
            points.setdefault(row.model_b, []).append({"model_b": 1.0, "tie": 0.5}.get(row.winner or "", 0.0))
    found = {
        name: {
            "rows": len(scores.get(name, ())) + len(points.get(name, ())),
            "mean_score": _mean(scores.get(name)),
            "win_rate": _mean(points.get(name)),
        }
        for name in sorted(scores.keys() | points.keys())
    }

    def best_first(name: str) -> tuple[float, float, str]:
        return -(found[name]["mean_score"] or 0.0), -(found[name]["win_rate"] or 0.0), name

    return {name: found[name] for name in sorted(found, key=best_first)}


def _battles(battles: Sequence[Comparison]) -> dict[str, Any] | None:
    if not battles:
        return None
    outcomes = Counter(row.winner for row in battles)
    decided = outcomes["model_a"] + outcomes["model_b"]
    low, high = wilson(outcomes["model_a"], decided)
    return {
        "position_a_win_rate": _share(outcomes["model_a"], decided),
        "position_a_low": round(low, 4),
        "position_a_high": round(high, 4),
        "tie_share": _share(outcomes["tie"], len(battles)),
        "both_bad_share": _share(outcomes["both_bad"], len(battles)),
    }


def _users(rows: Sequence[Comparison]) -> dict[str, Any] | None:
    counts = Counter(row.user for row in rows if row.user is not None)
    if not counts:
        return None
    busiest, most = counts.most_common(1)[0]
    return {
        "users": len(counts),
        "rows_with_user": counts.total(),
        "rows_per_user_median": statistics.median(counts.values()),
        "busiest": busiest,
        "busiest_rows": most,
        "busiest_share": _share(most, len(rows)),
    }


def _coverage(pairs: Mapping[Pair, int], models: Sequence[str]) -> dict[str, Any]:
    rows = list(pairs.values())
    return {
        "seen": len(rows),
        "possible": len(models) * (len(models) - 1) // 2,
        "rows_per_pair_min": min(rows, default=0),
        "rows_per_pair_median": statistics.median(rows) if rows else 0,
        "rows_per_pair_max": max(rows, default=0),
    }


def _graph(pairs: Mapping[Pair, int], models: Sequence[str]) -> dict[str, Any]:
    rows_of: Counter[str] = Counter()
    for pair, count in pairs.items():
        for name in pair:
            rows_of[name] += count
    total = sum(pairs.values())
    centre, share = None, None
    if rows_of and len(models) > 2:
        name, count = rows_of.most_common(1)[0]
        if count / total >= STAR_SHARE:
            centre, share = name, _share(count, total)
    return {"components": components(pairs, models), "star_centre": centre, "star_share": share}


def _scripts(prompts: Sequence[str]) -> dict[str, Any]:
    """Count letters by script, of prompts spread evenly over the log; a prompt counts by its most frequent script."""
    distinct = list(dict.fromkeys(prompts))
    step = max(1, math.ceil(len(distinct) / N_SCRIPT_PROMPTS))
    sample = distinct[::step]
    counts: Counter[str] = Counter()
    for text in sample:
        letters = Counter(_script(letter) for letter in text[:N_SCRIPT_CHARS] if letter.isalpha())
        counts[letters.most_common(1)[0][0] if letters else "none"] += 1
    return {
        "sampled_prompts": len(sample),
        "shares": {script: _share(count, len(sample)) for script, count in counts.most_common()},
    }


@lru_cache(maxsize=65536)
def _script(letter: str) -> str:
    first = unicodedata.name(letter, "UNNAMED").split(" ")[0]
    return {"CJK": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana"}.get(first, first.capitalize())


def _template(prompts: Sequence[str]) -> dict[str, Any]:
    counts = Counter(prompts)
    template = find_template(list(counts))
    cut = sum(count for text, count in counts.items() if template.strip(text) != text)
    return {
        "prefix_chars": [len(prefix) for prefix in template.prefixes],
        "suffix_chars": [len(suffix) for suffix in template.suffixes],
        "row_share": _share(cut, len(prompts)),
    }


def _time_span(rows: Sequence[Comparison]) -> dict[str, Any] | None:
    times = [row.timestamp for row in rows if row.timestamp is not None]
    if not times:
        return None
    return {"rows": len(times), "first": _iso(min(times)), "last": _iso(max(times))}


def _warnings(report: Mapping[str, Any]) -> list[str]:
    said: list[str] = []
    graph, battles, users, template = report["graph"], report["battles"], report["users"], report["template"]
    apart = graph["components"]
    if len(apart) > 1:
        groups = "; ".join(_names(group) for group in apart)
        said.append(
            f"The comparison graph falls apart into {len(apart)} groups of models, and models of different groups are "
            f"never ranked against each other: {groups}."
        )
    if graph["star_centre"]:
        said.append(
            f"The log is a star: {graph['star_centre']} takes part in {graph['star_share']:.0%} of the comparisons, "
            "so other models are ranked against each other only through it."
        )
    if battles and battles["tie_share"] + battles["both_bad_share"] >= 1.0:
        said.append("No battle was decided: nothing here tells one model from another.")
    elif battles and not battles["position_a_low"] <= 0.5 <= battles["position_a_high"]:
        said.append(
            f"Position A wins {battles['position_a_win_rate']:.1%} of the decided battles (95 % interval "
            f"{battles['position_a_low']:.1%} to {battles['position_a_high']:.1%}): sides were not drawn evenly."
        )
    if report["prompts"]["unique_exact"] < MIN_PROMPTS:
        said.append(f"Fewer than {MIN_PROMPTS} distinct prompts: train will refuse.")
    if users and users["busiest_share"] > MAX_USER_SHARE:
        said.append(f"One user, {users['busiest']}, gave {users['busiest_share']:.0%} of the rows.")
    if template["prefix_chars"] or template["suffix_chars"]:
        said.append(f"{template['row_share']:.0%} of the rows share a template, which training cuts off.")
    if report["prompts"]["identical_rows"]:
        said.append(f"{report['prompts']['identical_rows']} rows repeat another row in every respect.")
    refused = report["rows"]["refused"]
    if refused:
        said.append(f"{refused} rows were refused, {_share(refused, _total_rows(report)):.1%} of what was read.")
    return said


def _total_rows(report: Mapping[str, Any]) -> int:
    read: int = sum(source["rows"] for source in report["sources"])
    return read


def _counts(labels: Iterable[str | None]) -> dict[str, int]:
    return dict(Counter(label for label in labels if label is not None).most_common())


def _mean(values: Sequence[float] | None) -> float | None:
    return round(statistics.fmean(values), 4) if values else None


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _iso(seconds: float) -> str:
    return (dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)).isoformat(timespec="seconds")


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - N_SHOWN} more" if len(names) > N_SHOWN else ""
    return ", ".join(names[:N_SHOWN]) + more


def render(report: Mapping[str, Any]) -> str:
    """Return a report of ``inspect_log`` as aligned text for people."""
    lines: list[str] = []
    for source in report["sources"]:
        lines += _render_source(source)
    rows, prompts, pairs, graph = report["rows"], report["prompts"], report["pairs"], report["graph"]
    facts = [
        ("rows", f"{rows['comparisons']:,} ({rows['battles']:,} battles, {rows['scored']:,} scored)"),
        ("refused", f"{rows['refused']:,}"),
        (
            "prompts",
            f"{prompts['unique']:,} ({prompts['near_duplicates']:,} more differ only in case or punctuation;"
            " edits of words are found by train)",
        ),
        ("repeated", f"{prompts['repeated_rows']:,} rows; {prompts['identical_rows']:,} identical in every respect"),
        ("models", f"{len(report['models'])}"),
        ("intents", _counted(report["intents"])),
        *_battle_facts(report["battles"]),
        ("judges", _counted(report["judges"])),
        ("users", _user_fact(report["users"])),
        (
            "pairs",
            f"{pairs['seen']:,} of {pairs['possible']:,}; rows per pair {pairs['rows_per_pair_min']:,} to "
            f"{pairs['rows_per_pair_max']:,}, median {pairs['rows_per_pair_median']:,g}",
        ),
        ("graph", _graph_fact(graph)),
        ("scripts", ", ".join(f"{name} {share:.1%}" for name, share in report["scripts"]["shares"].items())),
        ("template", _template_fact(report["template"])),
    ]
    if any(report["measured"].values()):
        measured = report["measured"]
        cost, latency, length = (measured[f"{one}_share"] for one in ("cost_usd", "latency_ms", "output_tokens"))
        facts.append(
            ("measured", f"cost on {cost:.1%} of the rows, latency on {latency:.1%}, answer length on {length:.1%}")
        )
    if report["time"]:
        facts.append(("time", f"{report['time']['first']} to {report['time']['last']}"))
    lines += _aligned(facts)
    lines += ["", *_aligned(_model_lines(report["models"]))]
    applied = [f"{count:,} {rule}" for rule, count in report["notes"].items()]
    for title, sentences in (
        ("rules applied", applied),
        ("refused rows, the first of them", rows["first_refusals"]),
        ("warnings", report["warnings"]),
    ):
        if sentences:
            lines += ["", title, *(f"  {sentence}" for sentence in sentences)]
    return "\n".join(lines)


def _render_source(source: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{source['name']}: {source['format']}, recognised by {source['recognised_by']}",
        f"  {source['kept']:,} of {source['rows']:,} rows kept",
    ]
    taken = [column for column in source["columns"] if column["role"]]
    ignored = [column for column in source["columns"] if not column["role"]]
    for title, columns in (("taken", taken), ("ignored", ignored)):
        # Columns with the same story (one per model) share a line.
        stories: dict[str, list[str]] = {}
        for column in columns:
            head = f"as {column['role']}" if column["role"] else ""
            stories.setdefault(f"{head}: {column['reason']}".removeprefix(": "), []).append(column["name"])
        lines += [f"  {title:<8} {_names(names)} ({story})" for story, names in stories.items()]
    return [*lines, ""]


def _aligned(facts: Sequence[tuple[str, str]]) -> list[str]:
    shown = [(name, value) for name, value in facts if value]
    width = max((len(name) for name, _ in shown), default=0)
    return [f"{name:<{width}}  {value}" for name, value in shown]


def _model_lines(models: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    width = max([len("rows"), *(len(f"{one['rows']:,}") for one in models.values())])
    head = ("model", f"{'rows':>{width}}  score   wins")
    return [head] + [
        (name, f"{one['rows']:>{width},}  {_decimal(one['mean_score'])}  {_decimal(one['win_rate'])}")
        for name, one in models.items()
    ]


def _decimal(value: float | None) -> str:
    return "    -" if value is None else f"{value:.3f}"


def _counted(counts: Mapping[str, int]) -> str:
    if not counts:
        return ""
    return f"{len(counts)}: " + _names([f"{label} {count:,}" for label, count in counts.items()])


def _battle_facts(battles: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if battles is None:
        return []
    interval = f"{battles['position_a_low']:.1%} to {battles['position_a_high']:.1%}"
    return [
        ("position A wins", f"{battles['position_a_win_rate']:.1%} ({interval}), ties left out"),
        ("ties", f"{battles['tie_share']:.1%}; both bad {battles['both_bad_share']:.1%}"),
    ]


def _user_fact(users: Mapping[str, Any] | None) -> str:
    if users is None:
        return ""
    return f"{users['users']:,}; the busiest gave {users['busiest_share']:.1%} of the rows"


def _graph_fact(graph: Mapping[str, Any]) -> str:
    apart = len(graph["components"])
    whole = "connected" if apart == 1 else f"{apart} groups without a comparison between them"
    star = f", a star around {graph['star_centre']}" if graph["star_centre"] else ""
    return whole + star


def _template_fact(template: Mapping[str, Any]) -> str:
    parts = [
        f"{len(template[key])} {word} of {', '.join(map(str, template[key]))} characters"
        for key, word in (("prefix_chars", "prefixes"), ("suffix_chars", "suffixes"))
        if template[key]
    ]
    return f"{'; '.join(parts)}, on {template['row_share']:.1%} of the rows" if parts else "none shared"
