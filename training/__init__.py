"""whichmodel, the offline half: preference logs in, an artifact and an honest report out. Needs the extra [train]."""

from importlib.util import find_spec

from router.errors import ConfigError

_missing = [name for name in ("pandas", "pyarrow", "scipy", "sklearn", "tqdm") if find_spec(name) is None]
if _missing:
    raise ConfigError(f"{_missing[0]} is missing; install the training extra: pip install 'whichmodel[train]'")

from training.build import train  # noqa: E402 (what follows needs the extra)
from training.comparisons import Comparison, PreferenceLog  # noqa: E402
from training.evaluate import evaluate  # noqa: E402
from training.report import Report  # noqa: E402
from training.sources import load  # noqa: E402

__all__ = ["Comparison", "PreferenceLog", "Report", "evaluate", "load", "train"]
