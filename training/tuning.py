"""How an encoder is tuned, as plain values: finetune.py does it, and needs PyTorch; this does not."""

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[str, int, int], object]
"""Called with (stage, steps done, steps in all)."""


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """learning_rate: peak, of the network; prototypes learn faster by ``prototype_speed``.

    temperature: of the softmax over cosines. smoothing: share of a label's weight that is spread over all. keep: weight
    of the term that keeps cosines. wins: weight of telling the models' outcomes, where they are known. held_out: share
    of the labelled prompts that only measure. teach: prompts without a label get that of the nearest mean vector, in
    the vectors whose cosines are kept.
    """

    n_epochs: int = 4
    batch_size: int = 32
    learning_rate: float = 1e-4
    prototype_speed: float = 20.0
    temperature: float = 0.07
    smoothing: float = 0.1
    keep: float = 2.0
    wins: float = 1.0
    held_out: float = 0.1
    teach: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the prompts did: mean losses and, with rows held out, kNN accuracy on them."""

    number: int
    intent_loss: float
    keep_loss: float
    accuracy: float | None
    seconds: float


FULL_TUNING = TuneSettings()
# teach: on prompts that are not those of the labels it made no difference that was not noise (intents of data/intents
# 0.503 with it and 0.523 without, 396 held-out prompts; a table for Auto-J 0.470 and 0.475, 623 test texts).
STATIC_TUNING = TuneSettings(n_epochs=12, batch_size=64, learning_rate=1e-3, prototype_speed=1.0, keep=50.0, teach=True)
