"""What an artifact's rows say of each intent: which model is best there, and by how much."""

from dataclasses import dataclass

import numpy as np

from router.artifact import RouterArtifact


@dataclass(frozen=True, slots=True)
class IntentStanding:
    """How the models stand on the rows of one intent.

    n_rows: rows with the intent; share: of all rows, 0..1. best: the model of the highest mean quality there, quality:
    that mean, 0..1, shrunk to the model's mean on all rows. margin: its lead over the second best; lead_over_fixed:
    over the best fixed model, 0 where it is that model itself; both in units of quality (0.01 = one point) and of the
    same shrunk means. support: rows of the intent on which the best model was seen.
    """

    intent: str
    n_rows: int
    share: float
    best: str
    quality: float
    margin: float
    lead_over_fixed: float
    support: int


def intent_standings(artifact: RouterArtifact) -> tuple[IntentStanding, ...]:
    """Return one standing per intent, most rows first; the means are of training rows: they describe."""
    fixed = artifact.models.index(artifact.best_fixed)
    seen = artifact.best.evidence.h > 0
    standings = []
    for code, (intent, quality) in enumerate(zip(artifact.intents, artifact.intent_quality, strict=True)):
        rows = artifact.best.evidence.intents == code
        second, best = np.argsort(quality, kind="stable")[-2:]
        standings.append(
            IntentStanding(
                intent=intent,
                n_rows=int(rows.sum()),
                share=float(rows.mean()),
                best=artifact.models[best],
                quality=float(quality[best]),
                margin=float(quality[best] - quality[second]),
                lead_over_fixed=float(quality[best] - quality[fixed]),
                support=int(seen[rows, best].sum()),
            )
        )
    return tuple(sorted(standings, key=lambda one: (-one.n_rows, one.intent)))
