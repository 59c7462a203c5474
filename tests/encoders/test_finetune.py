"""training/finetune.py: prompts of one intent come together, and what the encoder knew stays."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.finetune import _batches, held_out_rows, taught_codes, tune
from training.labels import LabelledPrompts, read_outcomes
from training.metrics import neighbor_accuracy
from training.torch_encoder import SentenceEncoder
from training.tuning import FULL_TUNING, Epoch, TuneSettings

FAST = replace(FULL_TUNING, n_epochs=20, batch_size=16, learning_rate=1e-2, prototype_speed=5.0, held_out=0.3, keep=0.1)


def fresh(base: Path) -> SentenceEncoder:
    return SentenceEncoder(base, device="cpu")


def tuned(base: Path, prompts: LabelledPrompts, settings: TuneSettings) -> tuple[SentenceEncoder, list[Epoch]]:
    encoder = fresh(base)
    return encoder, tune(encoder, prompts, settings)


def vectors_of(encoder: SentenceEncoder, prompts: LabelledPrompts) -> np.ndarray:
    return encoder.embed([encoder.token_ids(text) for text in prompts.texts])


def weights_of(encoder: SentenceEncoder) -> dict[str, torch.Tensor]:
    return {name: one.clone() for name, one in encoder.module.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_tuning_brings_prompts_of_one_intent_together(base: Path, prompts: LabelledPrompts) -> None:
    encoder, epochs = tuned(base, prompts, FAST)
    assert [epoch.number for epoch in epochs] == list(range(1, 21))
    losses = [epoch.intent_loss for epoch in epochs]
    assert losses[-1] < 0.7 * losses[0]
    codes = np.array([prompts.names.index(label or "") for label in prompts.labels])
    measured = held_out_rows(codes, FAST.held_out, np.random.default_rng(FAST.seed))

    def accuracy(vectors: np.ndarray) -> float:
        return neighbor_accuracy(vectors[~measured], codes[~measured], vectors[measured], codes[measured])

    before, after = accuracy(vectors_of(fresh(base), prompts)), accuracy(vectors_of(encoder, prompts))
    assert after >= before + 0.2
    assert epochs[-1].accuracy == pytest.approx(after)


def test_the_more_weight_on_keeping_the_nearer_the_cosines_stay(base: Path, prompts: LabelledPrompts) -> None:
    usual = (before := vectors_of(fresh(base), prompts)) @ before.T
    moved = {}
    for keep in (0.0, 100.0):
        encoder, epochs = tuned(base, prompts, replace(FAST, keep=keep))
        moved[keep] = float(np.abs((after := vectors_of(encoder, prompts)) @ after.T - usual).mean())
        assert epochs[-1].keep_loss > 0
    assert moved[100.0] < 0.5 * moved[0.0]


def test_one_seed_gives_one_network(base: Path, prompts: LabelledPrompts) -> None:
    settings = replace(FAST, n_epochs=1)
    first, second = weights_of(tuned(base, prompts, settings)[0]), weights_of(tuned(base, prompts, settings)[0])
    assert equal(first, second)
    assert not equal(first, weights_of(fresh(base)))
    assert not equal(first, weights_of(tuned(base, prompts, replace(settings, seed=1))[0]))


def test_prompts_without_labels_only_keep_the_encoder_in_place(base: Path, prompts: LabelledPrompts) -> None:
    """With nothing but such prompts and their own cosines as the goal there is no intent loss."""
    bare = LabelledPrompts(prompts.texts, (None,) * len(prompts))
    encoder, epochs = tuned(base, bare, replace(FAST, n_epochs=1))
    assert (epochs[0].intent_loss, epochs[0].accuracy) == (0, None)
    assert np.isfinite(epochs[0].keep_loss)
    np.testing.assert_allclose(np.linalg.norm(vectors_of(encoder, prompts), axis=1), 1, atol=1e-5)


def test_prompts_without_labels_are_never_measured_and_do_not_change_the_intent_loss(
    base: Path, prompts: LabelledPrompts
) -> None:
    """In one batch, with a learning rate of 0: the loss of the labelled rows is the same beside others."""
    still = replace(FAST, n_epochs=1, batch_size=1000, learning_rate=0.0, held_out=0.0)
    texts = tuple(f"tell the world {n}" for n in range(20))
    both = LabelledPrompts(prompts.texts + texts, prompts.labels + (None,) * 20)
    losses, kept = [], []
    for one in (prompts, both):
        encoder = fresh(base)
        for dropout in (part for part in encoder.module.modules() if isinstance(part, torch.nn.Dropout)):
            dropout.p = 0.0
        (epoch,) = tune(encoder, one, still)
        assert epoch.accuracy is None
        losses.append(epoch.intent_loss)
        kept.append(epoch.keep_loss)
    assert losses[0] == pytest.approx(losses[1], rel=0.02)  # bfloat16 rounds
    assert max(kept) < 1e-3, "an encoder that does not move keeps its cosines"


def test_outcomes_pull_together_what_one_model_is_good_at(base: Path, prompts: LabelledPrompts, tmp_path: Path) -> None:
    best = {"code": "coder", "cooking": "chef", "travel": "guide"}
    rows = [
        {"prompt": text, "scores": {model: float(best[label or ""] == model) for model in best.values()}}
        for text, label in zip(prompts.texts, prompts.labels, strict=True)
    ]
    rows[0]["scores"] = {"coder": 0.5}  # what is unknown takes no part
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = read_outcomes(tmp_path / "log.jsonl")
    assert log.names == () and log.outcomes is not None and log.outcomes.shape == (60, 3)
    encoder, epochs = tuned(base, log, replace(FAST, keep=0.0))
    assert all(epoch.intent_loss == 0 and np.isfinite(epoch.keep_loss) for epoch in epochs)
    after, before = vectors_of(encoder, prompts), vectors_of(fresh(base), prompts)
    alike = np.array([[one == other for other in prompts.labels] for one in prompts.labels])

    def contrast(vectors: np.ndarray) -> float:
        cosines = vectors @ vectors.T
        return float(cosines[alike].mean() - cosines[~alike].mean())

    assert np.isfinite(after).all()
    assert contrast(after) > contrast(before) + 0.1
    without, _ = tuned(base, replace(log, outcomes=None), replace(FAST, keep=0.0))
    assert not equal(weights_of(encoder), weights_of(without))


def test_interrupted_it_is_left_as_the_last_step_made_it(base: Path, prompts: LabelledPrompts, tmp_path: Path) -> None:
    encoder = fresh(base)

    def progress(stage: str, done: int, total: int) -> None:
        assert (stage, total) == ("tuning", 60)
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(encoder, prompts, FAST, progress=progress)
    assert not equal(weights_of(encoder), weights_of(fresh(base)))
    vectors = vectors_of(encoder, prompts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors, vectors_of(encoder, prompts))
    encoder.save(tmp_path / "saved")
    np.testing.assert_array_equal(vectors, vectors_of(fresh(tmp_path / "saved"), prompts))


def test_a_teacher_of_another_dimension_gives_the_cosines_that_are_kept(base: Path, prompts: LabelledPrompts) -> None:
    anchor = np.random.default_rng(0).normal(size=(len(prompts), 3)).astype(np.float32)
    anchor /= np.linalg.norm(anchor, axis=1, keepdims=True)
    encoder = fresh(base)
    epochs = tune(encoder, prompts, replace(FAST, keep=100.0), anchor=anchor)
    before, after = vectors_of(fresh(base), prompts), vectors_of(encoder, prompts)
    gaps = [float(((one @ one.T - anchor @ anchor.T) ** 2).mean()) for one in (before, after)]
    assert gaps[1] < gaps[0] and epochs[-1].keep_loss < epochs[0].keep_loss


def test_about_a_tenth_of_every_label_is_held_out_and_never_all() -> None:
    codes = np.repeat(np.array([-1, 0, 1, 2, 3]), [100, 200, 14, 1, 2])
    measured = held_out_rows(codes, 0.1, np.random.default_rng(0))
    assert [int(measured[codes == code].sum()) for code in (-1, 0, 1, 2, 3)] == [0, 20, 1, 0, 0]
    measured = held_out_rows(codes, 1.0, np.random.default_rng(0))
    assert [int(measured[codes == code].sum()) for code in (-1, 0, 1, 2, 3)] == [0, 199, 13, 0, 1]
    assert not held_out_rows(codes, 0.0, np.random.default_rng(0)).any()


@pytest.mark.parametrize("n", [1, 7, 64, 1000])
def test_batches_of_like_length_hold_every_row_once(n: int) -> None:
    rng = np.random.default_rng(0)
    rows = [[0] * int(length) for length in rng.integers(1, 100, size=2 * n)]
    train = np.arange(0, 2 * n, 2)
    batches = _batches(train, rows, 8, rng)
    assert sorted(int(row) for batch in batches for row in batch) == train.tolist()
    assert len(batches) == -(-n // 8) and all(1 <= len(batch) <= 8 for batch in batches)
    if n == 1000:
        spread = np.mean([np.ptp([len(rows[row]) for row in batch]) for batch in batches])
        assert spread < 10, "lengths of 1 to 99 drawn at random are 78 apart"
        assert [len(rows[batch[0]]) for batch in batches] != sorted(len(rows[batch[0]]) for batch in batches)


def test_a_teacher_fills_in_the_label_of_the_nearest_mean_and_leaves_the_others() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.96, 0.28], [0.6, 0.8], [0.8, 0.6]], dtype=np.float32)
    codes = np.array([0, 2, -1, -1, 2])
    assert taught_codes(vectors, codes).tolist() == [0, 2, 0, 2, 2]
    assert taught_codes(vectors, np.full(5, -1)).tolist() == [-1] * 5
