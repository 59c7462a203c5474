"""whichmodel, the offline half: preference logs in, an artifact and an honest report out. Needs the extra [train]."""

from router.errors import ConfigError

try:
    import pandas as _pandas  # noqa: F401
    import sklearn as _sklearn  # noqa: F401
except ImportError as exc:
    raise ConfigError(f"{exc.name} is missing; install the training extra: pip install 'whichmodel[train]'") from exc

from training.build import train
from training.comparisons import Comparison, PreferenceLog
from training.evaluate import evaluate
from training.report import Report
from training.sources import load

__all__ = ["Comparison", "PreferenceLog", "Report", "evaluate", "load", "train"]
