"""What an artifact is and what it promises, for people and programs that ask a server or a directory."""

from router.artifact import RouterArtifact
from router.types import JsonObject


def describe(artifact: RouterArtifact) -> JsonObject:
    """Return what the artifact is and what it promises, JSON-able and without prompts."""
    return {
        "artifact_id": artifact.id,
        "models": list(artifact.models),
        "best_fixed": artifact.best_fixed,
        "strategies": dict(artifact.strategies),
        "default_strategy": artifact.default_strategy,
        "verdict": {"label": artifact.verdict.label, "text": artifact.verdict.text},
        "kind": artifact.best.evidence.kind,
        "n_rows": len(artifact.best.vectors),
        "intents": list(artifact.intents),
        "intents_from": artifact.intents_from,
        "tiers": [
            {
                "tier": tier.name,
                "encoder": tier.encoder.settings.name,
                "dim": tier.encoder.settings.dim,
                "id": tier.encoder.id,
                "gain": tier.report.get("gain"),
                "verdict": {"label": tier.verdict.label, "text": tier.verdict.text},
            }
            for tier in artifact.tiers
        ],
        "prompts_stored": artifact.prompts is not None,
        "report": artifact.report,
    }
