"""Tuning a sentence encoder so that prompts of one intent lie together, without forgetting what it knew.

Every intent has a prototype, a unit vector that is learnt along with the network, and a prompt should lie nearest to
its own (softmax over cosines; Zhai & Wu 2019, "Classification is a strong baseline for deep metric learning"). Beside
it stands what keeps the encoder's general sense of likeness: within a batch, the cosines between prompts should stay
those that the base gives, or a smaller encoder's teacher (relational distillation; Park et al. 2019).
Unlabelled prompts take part in the second term only, unless the teacher labels them (``teach``).

Needs the extra ``encoders``; a GPU is used where there is one.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from training.labels import LabelledPrompts
from training.metrics import neighbor_accuracy
from training.torch_encoder import TorchEncoder
from training.tuning import Epoch, Progress, TuneSettings

WARM_UP_SHARE = 0.1
WEIGHT_DECAY = 0.01
MAX_GRADIENT = 1.0
# Batches are cut from pools of like lengths, this many batches each: padding costs more than it teaches.
POOL_BATCHES = 16


def tune(
    encoder: TorchEncoder,
    prompts: LabelledPrompts,
    settings: TuneSettings,
    *,
    anchor: NDArray[np.float32] | None = None,
    progress: Progress | None = None,
    on_epoch: Callable[[Epoch], object] | None = None,
) -> list[Epoch]:
    """Tune ``encoder`` in place and return what each epoch did; interrupted, it stays as the last step left it.

    anchor: unit vectors (n_prompts, any dim) whose cosines are kept; those that the encoder gives now when left out.
    """
    rng = np.random.default_rng(settings.seed)
    torch.manual_seed(settings.seed)
    names = prompts.names
    codes = np.array([names.index(one) if one is not None else -1 for one in prompts.labels])
    labelled = np.flatnonzero(codes >= 0)
    rows = [encoder.token_ids(text) for text in prompts.texts]
    measured = held_out_rows(codes, settings.held_out, rng)
    train = np.flatnonzero(~measured)
    device = encoder.device
    now = encoder.embed(rows)
    kept = torch.from_numpy(now if anchor is None else anchor)
    means = np.zeros((len(names), now.shape[1]), dtype=np.float32)
    taught = taught_codes(kept.numpy(), np.where(measured, -1, codes)) if settings.teach else codes
    for code in range(len(names)):
        means[code] = now[train[taught[train] == code]].mean(axis=0)
    prototypes = torch.nn.Parameter(torch.from_numpy(means).to(device))
    outcomes = None if prompts.outcomes is None else torch.from_numpy(prompts.outcomes).to(device)
    winners = torch.nn.Linear(now.shape[1], 1 if outcomes is None else outcomes.shape[1]).to(device)
    steps = settings.n_epochs * -(-len(train) // settings.batch_size)
    optimizer = torch.optim.AdamW(
        [
            {"params": list(encoder.module.parameters()), "lr": settings.learning_rate, "weight_decay": WEIGHT_DECAY},
            {
                "params": [prototypes, *winners.parameters()],
                "lr": settings.learning_rate * settings.prototype_speed,
                "weight_decay": 0.0,
            },
        ]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_up_and_down(step, steps))
    epochs = []
    done = 0
    for number in range(1, settings.n_epochs + 1):
        started = time.monotonic()
        encoder.module.train()
        losses = []
        for batch in _batches(train, rows, settings.batch_size, rng):
            with torch.autocast(device, dtype=torch.bfloat16):
                vectors = encoder.forward([rows[row] for row in batch])
            vectors = vectors.float()
            cosines = vectors @ functional.normalize(prototypes, dim=1).T
            intent_loss = _intent_loss(cosines, torch.from_numpy(taught[batch]).to(device), settings)
            usual = kept[batch].to(device)
            keep_loss = ((vectors @ vectors.T - usual @ usual.T) ** 2).mean()
            loss = intent_loss + settings.keep * keep_loss
            if outcomes is not None:
                loss = loss + settings.wins * _outcome_loss(winners(vectors), outcomes[batch])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(encoder.module.parameters(), MAX_GRADIENT)
            optimizer.step()
            schedule.step()
            losses.append((float(intent_loss.detach()), float(keep_loss.detach())))
            done += 1
            if progress is not None:
                progress("tuning", done, steps)
        accuracy = None
        if measured.any():
            vectors_now = encoder.embed([rows[row] for row in labelled])
            inside = measured[labelled]
            accuracy = neighbor_accuracy(
                vectors_now[~inside], codes[labelled][~inside], vectors_now[inside], codes[labelled][inside]
            )
        mean = np.mean(losses, axis=0)
        epochs.append(Epoch(number, float(mean[0]), float(mean[1]), accuracy, time.monotonic() - started))
        if on_epoch is not None:
            on_epoch(epochs[-1])
    encoder.module.eval()
    return epochs


def taught_codes(vectors: NDArray[np.float32], codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the codes with every missing one (-1) filled in: that of the nearest mean vector of a label."""
    known = np.unique(codes[codes >= 0])
    if not len(known):
        return codes
    means = np.stack([vectors[codes == code].mean(axis=0) for code in known])
    nearest = known[np.argmax(vectors @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T, axis=1)]
    return np.where(codes >= 0, codes, nearest)


def _intent_loss(cosines: torch.Tensor, target: torch.Tensor, settings: TuneSettings) -> torch.Tensor:
    """Return the mean cross-entropy of the rows that have a label, 0 where none has."""
    known = target >= 0
    if not known.any():
        return cosines.new_zeros(())
    logits = cosines[known] / settings.temperature
    return functional.cross_entropy(logits, target[known], label_smoothing=settings.smoothing)


def _outcome_loss(logits: torch.Tensor, outcomes: torch.Tensor) -> torch.Tensor:
    """Return the mean log-loss of the known outcomes, 0 where none is."""
    known = ~outcomes.isnan()
    losses = functional.binary_cross_entropy_with_logits(logits, outcomes.nan_to_num(), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def held_out_rows(codes: NDArray[np.int64], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Choose about ``share`` of every label's rows, bool (n_rows,); rows without a label (-1) are never chosen."""
    out = np.zeros(len(codes), dtype=bool)
    for code in np.unique(codes[codes >= 0]):
        mine = np.flatnonzero(codes == code)
        n = min(round(share * len(mine)), len(mine) - 1)
        out[rng.choice(mine, size=n, replace=False)] = True
    return out


def _batches(
    train: NDArray[np.int64], rows: Sequence[Sequence[int]], batch_size: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Deal the rows to batches of like lengths: shuffled, sorted within pools, and the batches shuffled again."""
    order = rng.permutation(train)
    size = batch_size * POOL_BATCHES
    batches = []
    for start in range(0, len(order), size):
        pool = sorted(order[start : start + size], key=lambda row: len(rows[row]))
        batches += [np.array(pool[at : at + batch_size]) for at in range(0, len(pool), batch_size)]
    rng.shuffle(batches)
    return batches


def _warm_up_and_down(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: linearly up over the first tenth, then linearly down to 0."""
    warm = max(1, round(WARM_UP_SHARE * steps))
    return (step + 1) / warm if step < warm else max(0.0, (steps - step) / max(1, steps - warm))
