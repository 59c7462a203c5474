"""whichmodel, the online half: load an artifact, ask which model should take a prompt."""

from router.errors import ArtifactError, ConfigError, DataError, EncoderError, PolicyError, PromptError, RouterError
from router.router import Router
from router.types import Decision, Estimate, ModelProfile, Neighbor, Policy, Verdict

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "ConfigError",
    "DataError",
    "Decision",
    "EncoderError",
    "Estimate",
    "ModelProfile",
    "Neighbor",
    "Policy",
    "PolicyError",
    "PromptError",
    "Router",
    "RouterError",
    "Verdict",
    "__version__",
]
