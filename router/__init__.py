"""whichmodel, the online half: load an artifact, ask which model should take a prompt.

What needs numpy is imported when it is first asked for, so that ``router.client`` comes without it.
"""

from typing import TYPE_CHECKING

from router.errors import ArtifactError, ConfigError, DataError, EncoderError, PolicyError, PromptError, RouterError

if TYPE_CHECKING:
    from router.router import Router
    from router.types import Decision, Estimate, ModelProfile, Neighbor, Policy, Verdict
else:  # hidden from type checkers, for which a module with __getattr__ has every name

    def __getattr__(name: str) -> object:
        """Import what is exported and not here yet."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module("router.router" if name == "Router" else "router.types"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


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
