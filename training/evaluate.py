"""What choices were worth on logged rows, as a report; and a separate log as an artifact routes it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from router.artifact import RouterArtifact
from router.errors import DataError
from router.estimate import Evidence
from router.prompt import prompt_hash
from router.router import Router
from router.types import Gain, JsonObject, Policy
from training.baselines import baselines, oracle_quality
from training.comparisons import Comparison, PreferenceLog
from training.evidence import Table, tabulate
from training.fit import fit_evidence
from training.report import Outcome, Report
from training.split import NEAR_DUPLICATE_COSINE, near_duplicate_groups
from training.value import ValueMatrix, paired_gain, value_matrix
from training.verdict import DEFAULT_MARGIN, HeldOut, gain_of, rule


def gain_over(
    worth: ValueMatrix,
    choices: NDArray[np.int64],
    fixed: NDArray[np.int64],
    groups: NDArray[np.int64],
    rows: NDArray[np.bool_] | None = None,
    *,
    error_factor: float = 1.0,
) -> Gain:
    """Return the gain of ``choices`` over ``fixed``, both int64 (n_rows,), on the rows marked in ``rows`` or on all.

    groups: int64 (n_rows,), rows of one group are not independent. error_factor: what the standard error is multiplied
    by, above 1 where the choices were cross-fitted on these very rows.
    """
    some = np.ones(len(choices), dtype=bool) if rows is None else rows
    difference = worth.of(choices) - worth.of(fixed)
    mean, error = paired_gain(difference[some], worth.weight[some], groups[some])
    return gain_of(mean, error_factor * error)


def score_choices(
    table: Table,
    worth: ValueMatrix,
    choices: NDArray[np.int64],
    fixed: NDArray[np.int64],
    best_fixed: str,
    groups: NDArray[np.int64],
    costs_usd: NDArray[np.float64] | None,
    *,
    protocol: str,
    details: JsonObject,
    margin: float = DEFAULT_MARGIN,
    error_factor: float = 1.0,
    n_logged: int | None = None,
) -> Report:
    """Return the report of ``choices`` against ``fixed``, both int64 (n_rows,), columns of the table's models.

    worth: over all rows of the table. groups: int64 (n_rows,), rows of one group are not independent.
    costs_usd: float64 (n_rows, n_models), or None where not every model has a price. To ``details`` are added the
    verdict's margin, and the rows that it asks for or None. error_factor: as in ``gain_over``. n_logged: rows of the
    log that this table was held out of, when it is not all of them: the rows asked for are counted in these.
    """
    at = np.arange(len(table))
    mine, theirs = worth.of(choices), worth.of(fixed)
    total = max(float(worth.weight.sum()), 1e-12)
    router_cost = None if costs_usd is None else float(costs_usd[at, choices].mean())
    fixed_cost = None if costs_usd is None else float(costs_usd[at, fixed].mean())
    effective = None
    if not _fully_scored(table):  # either side of the gain must have been tried
        effective = min(worth.effective_comparisons(choices), worth.effective_comparisons(fixed))
    gain = gain_over(worth, choices, fixed, groups, error_factor=error_factor)
    held_out = HeldOut(best_fixed, gain, router_cost, fixed_cost, n_logged or len(table), effective)
    ruling = rule(held_out, margin=margin)
    counts = np.bincount(choices, minlength=len(table.models)) / max(len(choices), 1)
    return Report(
        protocol=protocol,
        kind=table.kind,
        n_prompts=len(table),
        models=table.models,
        router=Outcome(float(mine @ worth.weight / total), router_cost),
        best_fixed=best_fixed,
        fixed=Outcome(float(theirs @ worth.weight / total), fixed_cost),
        baselines=baselines(table.models, worth, costs_usd),
        oracle_quality=oracle_quality(table.scores, table.row_weight) if table.kind == "scores" else None,
        gain=gain,
        verdict=ruling.verdict,
        shares={model: float(share) for model, share in zip(table.models, counts, strict=True) if share > 0},
        effective_comparisons=effective,
        details={**details, "margin": margin, "rows_needed": ruling.rows_needed},
    )


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A log as an artifact routes it: what was expected, what was chosen, and what every choice was worth.

    choices, fixed: int64 (n_rows,), columns of the table's models: the router's own choices, whatever the artifact's
    verdict, and the best fixed model of the training rows. quality, support, lead_error: float64 (n_rows, n_models), as
    estimated, and the standard error of the lead over ``fixed``. guard_z: how many of these a lead must pass.
    costs_usd: float64, same shape, as logged or else as expected, or None where not every one is known.
    expected_costs_usd: what the router reckons with, NaN where unknown. intents: int64 (n_rows,), numbers of the
    artifact's intents as read from the neighbours, -1 without. nearest: float64 (n_rows,), cosine to the nearest
    training row, 0 where the neighbours were not asked. trained_on: bool (n_rows,), the same text was a training row.
    groups: int64 (n_rows,), rows of one group are not independent. tier: which one of the artifact answered.
    """

    table: Table
    worth: ValueMatrix
    choices: NDArray[np.int64]
    fixed: NDArray[np.int64]
    best_fixed: str
    quality: NDArray[np.float64]
    support: NDArray[np.float64]
    lead_error: NDArray[np.float64]
    guard_z: float
    costs_usd: NDArray[np.float64] | None
    expected_costs_usd: NDArray[np.float64]
    intents: NDArray[np.int64]
    nearest: NDArray[np.float64]
    trained_on: NDArray[np.bool_]
    groups: NDArray[np.int64]
    artifact_id: str
    tier: str
    artifact_intents: tuple[str, ...]
    unknown_models: tuple[str, ...]

    @property
    def near_duplicate(self) -> NDArray[np.bool_]:
        """Which prompts are no training row, but have one above 0.95 cosine in the artifact's space: bool (n_rows,)."""
        return ~self.trained_on & (self.nearest > NEAR_DUPLICATE_COSINE)

    @property
    def unlike_training(self) -> NDArray[np.bool_]:
        """Which prompts are neither training rows nor near-duplicates of one: bool (n_rows,)."""
        return ~(self.trained_on | self.near_duplicate)

    def gain_where(self, rows: NDArray[np.bool_]) -> Gain:
        """Return the gain over the best fixed model on the rows marked in ``rows``, bool (n_rows,)."""
        return gain_over(self.worth, self.choices, self.fixed, self.groups, rows)

    def report(self, *, margin: float = DEFAULT_MARGIN) -> Report:
        """Return the numbers and the verdict."""
        details: JsonObject = {
            "artifact_id": self.artifact_id,
            "tier": self.tier,
            "n_trained_on": int(self.trained_on.sum()),
            "n_near_duplicates_of_training": int(self.near_duplicate.sum()),
            "unknown_models": list(self.unknown_models),
        }
        for name, rows in (("gain_on_unseen", ~self.trained_on), ("gain_without_near", self.unlike_training)):
            if rows.any() and not rows.all():
                details[name] = asdict(self.gain_where(rows))
        report = score_choices(
            self.table,
            self.worth,
            self.choices,
            self.fixed,
            self.best_fixed,
            self.groups,
            self.costs_usd,
            protocol=f"log evaluated with artifact {self.artifact_id or '(unwritten)'}, {self.tier} tier",
            details=details,
            margin=margin,
        )
        n_leaked = len(self.table) - int(self.unlike_training.sum())
        if not n_leaked:
            return report
        verdict = report.verdict
        leaked = f" {n_leaked} of {len(self.table)} prompts were trained on, or nearly so."
        return replace(report, verdict=replace(verdict, text=verdict.text + leaked))


def evaluate(artifact: RouterArtifact, log: PreferenceLog, *, margin: float = DEFAULT_MARGIN) -> Report:
    """Route every prompt of a separate log and compare with the best fixed model of the training rows.

    The best tier is judged, alone; for another, give ``artifact.only(name)``. The router's own choices are scored,
    whatever the artifact's verdict. Models that the artifact does not know are left out. Prompts that it was trained
    on, word for word or nearly so, are counted in ``details``, and the gain is given without them, too.

    Raises:
        DataError: the log holds fewer than two of the artifact's models.
    """
    return judge_log(artifact, log).report(margin=margin)


def judge_log(
    artifact: RouterArtifact, log: PreferenceLog, *, progress: Callable[[str, int, int], object] | None = None
) -> Judged:
    """Route every prompt of a separate log with the best tier; return what ``evaluate`` and the report page show.

    progress: called with (stage, prompts done, prompts in all).

    Raises:
        DataError: the log holds fewer than two of the artifact's models.
    """
    artifact = artifact.only()
    known = set(artifact.models) & set(log.models)
    if len(known) < 2:
        raise DataError(f"the log shares {len(known)} models with the artifact; at least 2 are needed")
    telling = PreferenceLog(comparisons=[one for one in log.comparisons if _tells_of(one, known)])
    table = tabulate(telling, template=artifact.template, models=tuple(m for m in artifact.models if m in known))
    column = {model: index for index, model in enumerate(table.models)}
    intent_number = {intent: index for index, intent in enumerate(artifact.intents)}
    shape = (len(table), len(table.models))
    quality, support, lead_error = np.zeros((3, *shape))
    expected = np.full(shape, np.nan)
    choices, intents = np.zeros(len(table), dtype=np.int64), np.full(len(table), -1)
    nearest = np.zeros(len(table))
    router, policy = Router(artifact), Policy(candidates=table.models, route_anyway=True)
    for row, text in enumerate(table.originals):
        decision = router.answer_of(artifact.best.name, text, policy)
        if progress is not None:
            progress("routing", row + 1, len(table))
        choices[row] = column[decision.model]
        if decision.neighbors:  # an unreadable prompt has none
            nearest[row] = decision.neighbors[0].similarity
        if decision.intent is not None:
            intents[row] = intent_number[decision.intent.label]
        for one in decision.estimates:
            at = row, column[one.model]
            quality[at], support[at], lead_error[at] = one.quality, one.support, one.lead_error
            expected[at] = np.nan if one.cost_usd is None else one.cost_usd
    best_fixed = _best_known_fixed(artifact, table.models)
    # The outcome model of the value must speak the log's unit: logits for battles, 0..1 for scores.
    if table.kind == artifact.best.evidence.kind:
        evidence = _prior_of(artifact, [artifact.models.index(model) for model in table.models])
    else:
        evidence = fit_evidence(table, np.ones(len(table), dtype=bool), use_intents=False)
    return Judged(
        table=table,
        worth=value_matrix(table, evidence, np.arange(len(table))),
        choices=choices,
        fixed=np.full(len(table), column[best_fixed]),
        best_fixed=best_fixed,
        quality=quality,
        support=support,
        lead_error=lead_error,
        guard_z=artifact.best.settings.guard_z,
        costs_usd=costs_of(table, expected),
        expected_costs_usd=expected,
        intents=intents,
        nearest=nearest,
        trained_on=_trained_on(artifact, table.texts),
        groups=near_duplicate_groups(np.stack([artifact.best.encoder.encode(text).vector for text in table.texts])),
        artifact_id=artifact.id,
        tier=artifact.best.name,
        artifact_intents=artifact.intents,
        unknown_models=tuple(sorted(set(log.models) - known)),
    )


def costs_of(table: Table, expected: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return each answer's cost: as logged where it was, else as expected; None unless every one is known."""
    costs = np.where(np.isnan(table.costs_usd), expected, table.costs_usd)
    return None if np.isnan(costs).any() else costs


def _tells_of(one: Comparison, known: set[str]) -> bool:
    return not known.isdisjoint(one.scores) if one.scores is not None else {one.model_a, one.model_b} <= known


def _fully_scored(table: Table) -> bool:
    return table.kind == "scores" and not bool(np.isnan(table.scores).any())


def _trained_on(artifact: RouterArtifact, texts: Sequence[str]) -> NDArray[np.bool_]:
    hashes = {bytes(row) for row in artifact.prompt_hashes}
    return np.array([bytes.fromhex(prompt_hash(text)) in hashes for text in texts])


def _best_known_fixed(artifact: RouterArtifact, models: Sequence[str]) -> str:
    if artifact.best_fixed in models:
        return artifact.best_fixed
    return max(models, key=lambda model: float(artifact.best.evidence.prior[artifact.models.index(model)]))


def _prior_of(artifact: RouterArtifact, columns: list[int]) -> Evidence:
    """Return the artifact's priors alone, for these columns: the outcome model of the value."""
    evidence = artifact.best.evidence
    nothing = np.zeros((0, len(columns)), dtype=np.float32)
    return Evidence(
        kind=evidence.kind,
        h=nothing,
        g=nothing,
        intents=np.zeros(0, dtype=np.int32),
        prior=evidence.prior[columns],
        intent_priors=np.zeros((0, len(columns))),
        variance=evidence.variance[columns],
        sizes=np.ones(0, dtype=np.float32),
    )
