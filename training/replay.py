"""Prompts of a log, decided again under several policies: what would be chosen, and what is expected of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.artifact import RouterArtifact
from router.catalogue import Catalogue
from router.deadline import Deadline, now_ms
from router.encoder import Encoding
from router.errors import DataError, PolicyError, PromptError
from router.needs import needs_of
from router.profiles import merged
from router.prompt import fold_messages, prompt_hash
from router.prompt_lines import read_prompts
from router.rung import Outcome, Question, Rung, read_features
from router.types import Decision, Messages, ModelProfile, Policy
from training.comparisons import PreferenceLog
from training.evidence import Table, tabulate
from training.sources.detect import detect
from training.sources.files import open_table
from training.sources.intake import Intake
from training.split import near_duplicate_groups

# Prompts decided at a time: enough for the index and the estimate to be shared, too few to notice in memory.
CHUNK_PROMPTS = 16
SEED = 0
REFUSED = "no model is left: "
NO_ANSWER = -1


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """What was asked. asked: texts or messages. table: the log's outcomes, one row per prompt; None where it has none.

    n_in_log: how many prompts there were before sampling. refused: FILE:LINE and reason of prompts that cannot be read.
    """

    asked: tuple[str | Messages, ...]
    table: Table | None
    n_in_log: int
    refused: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.asked)

    def sample(self, n_prompts: int, seed: int) -> "Prompts":
        """Return ``n_prompts`` of them drawn without replacement, in their order; all where there are no more."""
        if n_prompts >= len(self):
            return self
        rows = np.sort(np.random.default_rng(seed).choice(len(self), n_prompts, replace=False))
        table = None if self.table is None else self.table.take(rows)
        return replace(self, asked=tuple(self.asked[row] for row in rows), table=table)


def holds_prompts_alone(source: str, models: Sequence[str] | None = None) -> bool:
    """Tell whether a source is lines of prompts or messages in which no format of logs is recognised ('-': stdin)."""
    path = Path(source)
    if source == "-":
        return True
    if not path.is_file() or path.suffix.lower() not in (".jsonl", ".ndjson"):
        return False
    try:
        table = open_table(path)
    except DataError:
        return False  # whoever reads it will say why it cannot be read
    try:
        detect(table, None, Intake(models=None if models is None else frozenset(models)))
    except DataError:
        return "prompt" in table.columns or "messages" in table.columns
    return False


def prompts_of_lines(sources: Sequence[str]) -> Prompts:
    """Read lines as ``whichmodel route --input`` takes them; a prompt without any text is refused and counted.

    Raises:
        DataError: a file cannot be read, a line is no object with prompt or messages, or no prompt is left.
    """
    asked: list[str | Messages] = []
    refused = []
    for source in sources:
        for where, one in read_prompts(source):
            try:
                text = one if isinstance(one, str) else fold_messages(one)
            except PromptError as exc:
                refused.append(f"{where}: {exc}")
                continue
            if text.strip():
                asked.append(one)
            else:
                refused.append(f"{where}: the prompt is empty")
    if not asked:
        first = f"; {len(refused)} refused, the first: {refused[0]}" if refused else ""
        raise DataError(f"{', '.join(sources)}: no prompt to replay{first}")
    return Prompts(tuple(asked), None, len(asked), tuple(refused))


def prompts_of_log(log: PreferenceLog, artifact: RouterArtifact) -> Prompts:
    """Return a log's distinct prompts with their outcomes.

    Raises:
        DataError: the log holds fewer than two models or no rows.
    """
    table = tabulate(log, template=artifact.template)
    return Prompts(table.originals, table, len(table), tuple(str(one) for one in log.refusals))


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """What every policy would choose for every prompt, and what the router expects of it.

    models: the artifact's, then fallbacks that it does not know. choices: int64 (n_policies, n_prompts), places in
    ``models``, NO_ANSWER where none may be chosen. quality (0..1), costs_usd, latencies_ms: float64, same shape, of the
    chosen model's answer, NaN where unknown. reasons: per policy and prompt, the decision's reason, or what
    left no model. alone_quality, alone_costs_usd, alone_latencies_ms: float64 (n_prompts, n_models of the artifact),
    each model alone under no policy, NaN where it cannot take the prompt. intents: int64 (n_prompts,), places
    in ``intent_names`` as read from the neighbours, -1 without. groups: int64 (n_prompts,), prompts of one group are
    near-duplicates. trained_on: bool (n_prompts,), the same text was a training row.
    """

    policies: tuple[Policy, ...]
    models: tuple[str, ...]
    choices: NDArray[np.int64]
    quality: NDArray[np.float64]
    costs_usd: NDArray[np.float64]
    latencies_ms: NDArray[np.float64]
    reasons: tuple[tuple[str, ...], ...]
    alone_quality: NDArray[np.float64]
    alone_costs_usd: NDArray[np.float64]
    alone_latencies_ms: NDArray[np.float64]
    intents: NDArray[np.int64]
    intent_names: tuple[str, ...]
    groups: NDArray[np.int64]
    trained_on: NDArray[np.bool_]
    tier: str

    def __len__(self) -> int:
        return len(self.groups)


def replay(
    artifact: RouterArtifact,
    asked: Sequence[str | Messages],
    policies: Sequence[Policy],
    *,
    profiles: Mapping[str, ModelProfile] | None = None,
    progress: Callable[[str, int, int], object] | None = None,
    seed: int = SEED,
) -> Replay:
    """Decide every prompt under every policy with the artifact's best tier, each prompt encoded once.

    The decisions are those of ``Router.answer_of``, but for exploration, whose draws are made with ``seed``. For
    another tier, give ``artifact.only(name)``. policies: each with a name of its own. asked: none empty. profiles: laid
    over the artifact's. progress: called with (stage, prompts done, prompts in all).
    """
    if not asked:
        raise ValueError("replay() got no prompt, expected at least one")
    if len({one.name for one in policies}) < len(policies) or any(one.name is None for one in policies):
        raise ValueError(f"policies need names of their own, got {[one.name for one in policies]}")
    artifact = artifact.only()
    catalogue = Catalogue(artifact.models, merged(artifact.profiles, profiles or {}))
    rung = Rung(artifact, artifact.best, catalogue, degraded=False)
    taken = _Taken.of(artifact, policies, len(asked), seed)
    vectors, hashes = [], []
    for start in range(0, len(asked), CHUNK_PROMPTS):
        some = asked[start : start + CHUNK_PROMPTS]
        questions, encodings, outcomes = _decide(rung, some, taken.policies)
        for offset in range(len(some)):
            row = start + offset
            taken.keep(row, [own[offset] for own in outcomes])
            vectors.append(encodings[offset].vector)
            hashes.append(prompt_hash(questions[offset].core))
        if progress is not None:
            progress("replaying", min(start + CHUNK_PROMPTS, len(asked)), len(asked))
    known = {bytes(row) for row in artifact.prompt_hashes}
    return Replay(
        policies=tuple(policies),
        models=tuple(taken.columns),
        choices=taken.choices,
        quality=taken.numbers[0],
        costs_usd=taken.numbers[1],
        latencies_ms=taken.numbers[2],
        reasons=tuple(tuple(own) for own in taken.reasons),
        alone_quality=taken.alone[0],
        alone_costs_usd=taken.alone[1],
        alone_latencies_ms=taken.alone[2],
        intents=taken.intents,
        intent_names=artifact.intents,
        groups=near_duplicate_groups(np.stack(vectors)),
        trained_on=np.array([bytes.fromhex(one) in known for one in hashes]),
        tier=artifact.best.name,
    )


def _decide(
    rung: Rung, asked: Sequence[str | Messages], policies: Sequence[Policy]
) -> tuple[list[Question], list[Encoding], list[list[Outcome]]]:
    """Return the questions under the first policy, their encodings, and the outcomes per policy and prompt."""
    template, deadline = rung.artifact.template, Deadline(now_ms(), float("inf"))
    rows: list[list[Question]] = []
    for policy in policies:
        # Only where any model may come to be wanted are the estimates of those not chosen of use.
        explain = policy is policies[0] or policy.explore_share > 0
        greedy = replace(policy, explore_share=0.0)
        if not rows:
            texts = [one if isinstance(one, str) else fold_messages(one) for one in asked]
            rows.append(
                [
                    Question(text, template.strip(text), greedy, deadline, explain, needs_of(one))
                    for one, text in zip(asked, texts, strict=True)
                ]
            )
            read_features(rows[0])
        else:
            rows.append([replace(one, policy=greedy, explain=explain) for one in rows[0]])
    encodings = rung.encode_all(rows[0])
    flat = rung.decide_all([one for own in rows for one in own], [*encodings] * len(rows))
    n = len(asked)
    return rows[0], encodings, [flat[nth * n : (nth + 1) * n] for nth in range(len(rows))]


@dataclass(slots=True, eq=False)
class _Taken:
    """The arrays of a Replay while they are filled. policies: one that allows every model, then those compared.

    numbers, alone: quality, USD, ms on the first axis. rolls: float64 (n_policies, n_prompts), drawn evenly from 0..1.
    """

    policies: tuple[Policy, ...]
    columns: dict[str, int]
    choices: NDArray[np.int64]
    numbers: NDArray[np.float64]
    alone: NDArray[np.float64]
    intents: NDArray[np.int64]
    rolls: NDArray[np.float64]
    intent_number: Mapping[str, int]
    reasons: list[list[str]] = field(default_factory=list)

    @classmethod
    def of(cls, artifact: RouterArtifact, policies: Sequence[Policy], n_prompts: int, seed: int) -> "_Taken":
        shape = (len(policies), n_prompts)
        return cls(
            policies=(Policy(route_anyway=True), *policies),
            columns={name: column for column, name in enumerate(artifact.models)},
            choices=np.full(shape, NO_ANSWER, dtype=np.int64),
            numbers=np.full((3, *shape), np.nan),
            alone=np.full((3, n_prompts, len(artifact.models)), np.nan),
            intents=np.full(n_prompts, -1, dtype=np.int64),
            rolls=np.random.default_rng(seed).random(shape),
            intent_number={name: number for number, name in enumerate(artifact.intents)},
            reasons=[[] for _ in policies],
        )

    def keep(self, row: int, outcomes: Sequence[Outcome]) -> None:
        """Take over one prompt's outcomes, in the order of the policies."""
        open_to_all, *compared = outcomes
        if isinstance(open_to_all, Decision):
            for one in open_to_all.estimates:
                values = one.quality, _nan(one.cost_usd), _nan(one.latency_ms)
                self.alone[:, row, self.columns[one.model]] = values
            if open_to_all.intent is not None:
                self.intents[row] = self.intent_number[open_to_all.intent.label]
        for nth, outcome in enumerate(compared):
            self._keep_choice(nth, row, outcome)

    def _keep_choice(self, nth: int, row: int, outcome: Outcome) -> None:
        if isinstance(outcome, PolicyError):
            self.reasons[nth].append(str(outcome).removeprefix(REFUSED))
            return
        model, reason = _explored(outcome, self.policies[nth + 1].explore_share, self.rolls[nth, row])
        column = self.columns.setdefault(model, len(self.columns))
        self.choices[nth, row] = column
        self.reasons[nth].append(reason)
        own = outcome.estimate(model)
        if own is not None:
            self.numbers[:, nth, row] = own.quality, _nan(own.cost_usd), _nan(own.latency_ms)
        elif column < self.alone.shape[2]:  # a fallback that the constraints rule out is answered with all the same
            self.numbers[:, nth, row] = self.alone[:, row, column]


def _explored(decision: Decision, share: float, roll: float) -> tuple[str, str]:
    """Return model and reason where any allowed model is drawn with probability ``share``, as in router/policy.py."""
    ranking = (decision.model, *decision.fallbacks)
    if roll >= share or len(ranking) < 2:
        return decision.model, decision.reason
    drawn = ranking[min(int(roll / share * len(ranking)), len(ranking) - 1)]
    return drawn, decision.reason if drawn == decision.model else "explore"


def _nan(value: float | None) -> float:
    return np.nan if value is None else value
