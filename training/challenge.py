"""A challenger against the current artifact: which of the two would have served rows better that neither has seen."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from router.artifact import RouterArtifact
from router.catalogue import Catalogue
from router.deadline import Deadline, now_ms
from router.encoder import Encoding, OnnxEncoder
from router.errors import DataError, EncoderError
from router.needs import needs_of
from router.prompt import Template, prompt_hash
from router.rung import Question, Rung, settled
from router.types import Gain, JsonObject, Needs, Policy
from training.build import Learnt, Reserve
from training.comparisons import PreferenceLog
from training.evaluate import gain_over
from training.evidence import Table
from training.fit import fit_evidence
from training.report import Report
from training.split import NEAR_DUPLICATE_COSINE
from training.value import value_matrix

DEFAULT_HOLD_OUT = 0.1
# The challenger may be worse by no more than this, in quality, with 97.5 % confidence.
MARGIN = 0.005
# With fewer independent rows that the current artifact has not seen, all rows held out are taken, and that is said.
MIN_UNSEEN_GROUPS = 30
CHUNK_ROWS = 256


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the two would have been worth on the same rows.

    gain: of the challenger over the current artifact, paired. challenger, current: mean quality. n_rows: compared;
    n_differ: of these, on how many they choose another model. n_held_out: rows that the challenger did not learn from;
    n_seen: of these, how many (or near-duplicates of them) the current artifact did. clean: none of those was compared.
    n_unasked: held out as well and not among these, because their text was not kept, and one of the two has an encoder
    that never saw them.
    """

    current_id: str
    gain: Gain
    challenger: float
    current: float
    n_rows: int
    n_differ: int
    n_held_out: int
    n_seen: int
    clean: bool
    promoted: bool
    reason: str
    n_unasked: int = 0

    def to_json(self) -> JsonObject:
        """Return what the report keeps."""
        return asdict(self)

    def render(self) -> str:
        """Return the comparison for people."""
        gain = self.gain
        lines = [
            f"Challenger against {self.current_id or 'the current artifact'}, {self.n_rows} rows held out from both:"
            if self.clean
            else f"Challenger against {self.current_id or 'the current artifact'}, {self.n_rows} rows held out from the"
            f" challenger alone ({self.n_seen} seen by the current artifact):",
            f"  challenger           {self.challenger:.4f}",
            f"  current              {self.current:.4f}",
            f"  difference           {gain.mean:+.4f}  95 % interval {gain.low:+.4f} to {gain.high:+.4f}",
            f"  another model on     {self.n_differ} rows",
        ]
        if self.n_unasked:
            lines.append(f"  left out             {self.n_unasked} rows without text or vectors of both encoders")
        lines.append(self.reason)
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, eq=False)
class Challenge:
    """The challenger, its report with the comparison in its details, and the comparison."""

    artifact: RouterArtifact
    report: Report
    comparison: Comparison


def reserve_of(current: RouterArtifact, share: float | None = None) -> Reserve:
    """Return which rows a challenger of ``current`` must not learn from: those that it did not learn from either.

    share: wanted instead of the current artifact's; where that is less, rows that it did not see become training rows.
    """
    memory = current.memory
    if memory is None:
        return Reserve(DEFAULT_HOLD_OUT if share is None else share)
    return Reserve((memory.hold_out or DEFAULT_HOLD_OUT) if share is None else share, memory.key)


def encoders_of(current: RouterArtifact) -> list[OnnxEncoder]:
    """Return the current artifact's encoders, the best tier's first: vectors kept for it are then of use.

    One that ships with the package is that: what lies beside it, such as the model of intents, is found, too.
    """
    return [_shipped(tier.encoder) for tier in current.tiers]


def _shipped(encoder: OnnxEncoder) -> OnnxEncoder:
    try:
        own = OnnxEncoder.load(encoder.settings.tier)
    except EncoderError:  # not every installation has the full one
        return encoder
    return own if own.id == encoder.id else encoder


def template_of(log: PreferenceLog, current: RouterArtifact) -> Template | None:
    """Return the template to train with: the current artifact's where the log has rows without text, else None.

    Their vectors are of what it leaves of a prompt; with another, the same prompt would lie elsewhere.
    """
    return current.template if any(one.kept is not None for one in log.comparisons) else None


def challenge(learnt: Learnt, current: RouterArtifact) -> Challenge:
    """Compare what was learnt with ``reserve_of(current)`` with ``current``, on the rows that were held out.

    Both decide as they would serve, verdicts included, each with its best tier, among the models that the log knows.
    Promoted where the mean difference is at least 0 and its lower bound above -0.5 point. A row without text is asked
    by its vectors and features.

    Raises:
        DataError: the log knows none of the current artifact's models.
    """
    table, groups = learnt.table, learnt.groups
    held_out = np.flatnonzero(learnt.reserved)
    rows = held_out[_can_be_asked(table, held_out, (learnt.artifact, current))]
    n_unasked = len(held_out) - len(rows)
    if not len(rows):
        reason = (
            f"NOT PROMOTED: none of the {n_unasked} rows held out has its text, or vectors of both encoders; train "
            "with the encoder of the current artifact."
            if n_unasked
            else "NOT PROMOTED: the log holds no rows that were held out; give more rows, or a larger --hold-out."
        )
        nothing = Gain(0.0, -1.0, 1.0)
        return _with(learnt, Comparison(current.id, nothing, 0.0, 0.0, 0, 0, 0, 0, True, False, reason, n_unasked))
    theirs, nearest = _decided(current, table, rows)
    seen = _seen_groups(current, table, groups, rows[nearest > NEAR_DUPLICATE_COSINE])
    was_seen = np.isin(groups[rows], seen)
    clean = not was_seen.any() or len(np.unique(groups[rows[~was_seen]])) >= MIN_UNSEEN_GROUPS
    compared = ~was_seen if clean else np.ones(len(rows), dtype=bool)
    mine, _ = _decided(learnt.artifact, table, rows)
    # The outcome model behind the values knows no held-out row, and is the same for both.
    worth = value_matrix(table, fit_evidence(table, ~learnt.reserved, use_intents=False), rows)
    gain = gain_over(worth, mine, theirs, groups[rows], compared)
    weight = worth.weight * compared
    total = max(float(weight.sum()), 1e-12)
    promoted = bool(gain.mean >= 0 and gain.low > -MARGIN)
    return _with(
        learnt,
        Comparison(
            current_id=current.id,
            gain=gain,
            challenger=float(worth.of(mine) @ weight / total),
            current=float(worth.of(theirs) @ weight / total),
            n_rows=int(compared.sum()),
            n_differ=int((mine != theirs)[compared].sum()),
            n_held_out=len(rows),
            n_seen=int(was_seen.sum()),
            clean=clean,
            promoted=promoted,
            reason=_reason(gain, promoted, clean, current),
            n_unasked=n_unasked,
        ),
    )


def _can_be_asked(table: Table, rows: NDArray[np.int64], artifacts: Sequence[RouterArtifact]) -> NDArray[np.bool_]:
    """Return which rows have their text, or have been seen by the best encoder of each artifact: bool (n,)."""
    dims = {one.best.encoder.id: one.best.encoder.settings.dim for one in artifacts}
    kept = [table.kept[row] if table.kept else None for row in rows.tolist()]
    return np.array([one is None or one.can_be_placed(dims) for one in kept], dtype=bool)


def _decided(
    artifact: RouterArtifact, table: Table, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return (the columns chosen on ``rows``, the cosine to the nearest training row or 0), each (n,)."""
    column = {name: index for index, name in enumerate(table.models)}
    shared = tuple(name for name in artifact.models if name in column)
    if not shared:
        raise DataError(f"the log knows none of the models of {artifact.id or 'the artifact'}: nothing to compare on")
    policy = Policy(candidates=shared)
    rung = Rung(artifact, artifact.best, Catalogue(artifact.models, artifact.profiles), degraded=False)
    choices, nearest = np.empty(len(rows), dtype=np.int64), np.zeros(len(rows))
    for start in range(0, len(rows), CHUNK_ROWS):
        asked = [_question(artifact, table, row, policy) for row in rows[start : start + CHUNK_ROWS].tolist()]
        outcomes = rung.decide_all([question for question, _ in asked], [_encoded(rung, *one) for one in asked])
        for at, decision in enumerate(map(settled, outcomes), start):
            choices[at] = column[decision.model]
            if decision.neighbors:
                nearest[at] = decision.neighbors[0].similarity
    return choices, nearest


def _question(
    artifact: RouterArtifact, table: Table, row: int, policy: Policy
) -> tuple[Question, NDArray[np.float32] | None]:
    """Return a row as a question to the best tier, and its vector where the row has no text to encode."""
    text, deadline = table.originals[row], Deadline(now_ms(), float("inf"))
    kept = table.kept[row] if table.kept else None
    if kept is None:
        return Question(text, artifact.template.strip(text), policy, deadline, True, needs_of(text)), None
    needs = Needs(int(table.input_tokens[row]))
    return (
        Question("", "", policy, deadline, True, needs, features=kept.features),
        kept.vectors[artifact.best.encoder.id],
    )


def _encoded(rung: Rung, question: Question, vector: NDArray[np.float32] | None) -> Encoding:
    # How much the encoder knew of a prompt is not kept with its vector.
    return rung.encode_all([question])[0] if vector is None else Encoding(vector, 0, 0.0)


def _seen_groups(
    current: RouterArtifact, table: Table, groups: NDArray[np.int64], near: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the groups of near-duplicates of which the current artifact learnt any row, or one near to it."""
    known = {bytes(one) for one in current.prompt_hashes}
    # The current artifact may cut another template; what it learnt without its text it knows as it was asked.
    cut = [prompt_hash(current.template.strip(text)) for text in table.originals]
    whole = table.original_hashes
    same = [
        row for row, both in enumerate(zip(cut, whole, strict=True)) if any(bytes.fromhex(one) in known for one in both)
    ]
    return np.unique(np.concatenate([groups[np.array(same, dtype=np.int64)], groups[near]]))


def _reason(gain: Gain, promoted: bool, clean: bool, current: RouterArtifact) -> str:
    points = f"{100 * gain.mean:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
    if promoted:
        said = f"PROMOTED: {points}."
    elif gain.mean < 0:
        said = f"NOT PROMOTED: {points}; the difference must be at least 0."
    else:
        said = f"NOT PROMOTED: {points}; the lower bound must be above {-100 * MARGIN:+.1f}: more held-out rows needed."
    if clean:
        return said
    held_out = current.memory is not None and current.memory.hold_out > 0
    why = "too few rows are new to it" if held_out else "it held no rows out; train with --hold-out to change that"
    return f"{said} The current artifact had learnt from some of these rows, which favours it: {why}."


def _with(learnt: Learnt, comparison: Comparison) -> Challenge:
    """Put the comparison into the details of the report, and of the best tier's."""
    details = {**learnt.report.details, "challenge": comparison.to_json()}
    report = replace(learnt.report, details=details)
    best, *others = learnt.artifact.tiers
    tiers = (replace(best, report=report.to_json()), *others)
    return Challenge(replace(learnt.artifact, tiers=tiers), report, comparison)
