"""The held-out report: the numbers behind the verdict, for programs and for people."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from router.types import Gain, JsonObject, Verdict


@dataclass(frozen=True, slots=True)
class Outcome:
    """Mean quality (0..1) and mean cost of one answer in USD, None without prices."""

    quality: float
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """How routing did on rows that were not trained on, against what a fixed model would have done.

    protocol: how the rows were held out. router: the choices of the router itself, whatever the verdict.
    baselines: best_in_hindsight, cheapest (with prices), random. oracle_quality: None where not every score is
    known. shares: model to share of rows it was chosen for. effective_comparisons: of a battle log.
    details: settings and counts worth keeping. ``render`` reads there how many prompts were training rows
    (n_trained_on), how many more are near-duplicates of one (n_near_duplicates_of_training), and the gain without the
    former (gain_on_unseen) and without both (gain_without_near); the rows' intents (intents: where they are from,
    n_intents, n_rows_without); and, of an artifact with two tiers, the gain and verdict of each and the gain of one
    over the other (tiers: full, static, full_over_static).
    """

    protocol: str
    kind: str
    n_prompts: int
    models: tuple[str, ...]
    router: Outcome
    best_fixed: str
    fixed: Outcome
    baselines: Mapping[str, JsonObject]
    oracle_quality: float | None
    gain: Gain
    verdict: Verdict
    shares: Mapping[str, float]
    effective_comparisons: float | None
    details: JsonObject = field(default_factory=dict)

    def to_json(self) -> JsonObject:
        """Return the JSON form that ``train --json`` and ``eval --json`` print."""
        return {
            "protocol": self.protocol,
            "kind": self.kind,
            "n_prompts": self.n_prompts,
            "n_models": len(self.models),
            "models": list(self.models),
            "router": asdict(self.router),
            "best_fixed": {"model": self.best_fixed, **asdict(self.fixed)},
            "baselines": {name: dict(one) for name, one in self.baselines.items()},
            "oracle": None if self.oracle_quality is None else {"quality": self.oracle_quality},
            "gain": asdict(self.gain),
            "verdict": {"label": self.verdict.label, "text": self.verdict.text},
            "shares": dict(self.shares),
            "effective_comparisons": self.effective_comparisons,
            "details": self.details,
        }

    def render(self) -> str:
        """Return the report for people: one line per number, the verdict last."""
        unit = "score" if self.kind == "scores" else "win rate against the logged opponents"
        lines = [f"Held-out quality ({unit}), {self.protocol}, {self.n_prompts} prompts:"]
        rows = [("router", "", self.router), ("best fixed model", self.best_fixed, self.fixed)]
        for name, one in self.baselines.items():
            outcome = Outcome(one["quality"], one["cost_usd"])
            rows.append((name.replace("_", " "), str(one.get("model") or ""), outcome))
        if self.oracle_quality is not None:
            rows.append(("oracle", "", Outcome(self.oracle_quality, None)))
        for name, model, outcome in rows:
            cost = "" if outcome.cost_usd is None else f"  {outcome.cost_usd:.6f} USD"
            lines.append(f"  {name:<20} {outcome.quality:.4f}{cost}  {model}".rstrip())
        lines.append(_gain_line("gain", self.gain))
        lines.extend(self._leak_lines())
        if "tiers" in self.details:
            lines.extend(self._tier_lines(self.details["tiers"]))
        top = sorted(self.shares.items(), key=lambda item: -item[1])[:5]
        lines.append("  chosen               " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in top))
        if "intents" in self.details:
            line = "  intents              {n_intents} ({from}), {n_rows_without} rows without"
            lines.append(line.format_map(self.details["intents"]))
        if "calibration" in self.details:
            errors = (
                "{} {value:.3f} ({low:.3f} to {high:.3f})".format(name, **one["error"])
                for name, one in self.details["calibration"].items()
            )
            lines.append(f"  calibration error    {', '.join(errors)}, less what noise alone would give")
        if self.effective_comparisons is not None:
            lines.append(f"  effective comparisons behind the router's value: {self.effective_comparisons:.0f}")
        return "\n".join([*lines, self.verdict.text])

    def _leak_lines(self) -> list[str]:
        """Return the gain without the prompts that were trained on, and without their near-duplicates, too."""
        n_same = self.details.get("n_trained_on", 0)
        # Of a separate log, or of a block of time whose prompts came up before.
        keys = ("n_near_duplicates_of_training", "n_near_duplicates_of_earlier")
        n_near = sum(self.details.get(key, 0) for key in keys)
        without = [f"{n} {what}" for n, what in ((n_same, "training rows"), (n_near, "near-duplicates")) if n]
        lines = []
        if n_same and "gain_on_unseen" in self.details:
            lines.append(f"{_gain_line('  unseen', Gain(**self.details['gain_on_unseen']))}, without {without[0]}")
        if n_near and "gain_without_near" in self.details:
            gain = Gain(**self.details["gain_without_near"])
            lines.append(f"{_gain_line('  unseen, not near', gain)}, without {' and '.join(without)}")
        return lines

    def _tier_lines(self, tiers: JsonObject) -> list[str]:
        """Return what either tier is worth, and plainly where the slower one adds nothing that the log shows."""
        full, static = (_points(tiers[name]["gain"]) for name in ("full", "static"))
        over = tiers["full_over_static"]
        lines = [f"  {'tiers, in points':<20} full {full}, static {static}; full over static {_points(over)}"]
        if over["low"] <= 0 or over["high"] < self.details["margin"]:
            lines.append(f"  {'':<20} static answers are as good, as far as this log can tell")
        return lines


def _points(gain: JsonObject) -> str:
    return f"{100 * gain['mean']:+.1f} ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"


def _gain_line(name: str, gain: Gain) -> str:
    return f"  {name:<20} {gain.mean:+.4f}  95 % interval {gain.low:+.4f} to {gain.high:+.4f}"
