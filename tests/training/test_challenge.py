"""training/challenge.py: neither side ever saw the rows it is judged on, and the better one is taken."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from router.artifact import RouterArtifact, load_artifact
from router.cli import NOT_PROMOTED, main
from router.encoder import OnnxEncoder
from router.errors import DataError
from router.features import surface_features
from router.prompt import prompt_hash
from router.router import Router
from router.types import Verdict
from training.build import Learnt, Reserve, learn, train
from training.challenge import DEFAULT_HOLD_OUT, Challenge, challenge, encoders_of, reserve_of, template_of
from training.comparisons import Comparison, Kept, PreferenceLog
from training.forget import Wanted, forget

HOLD_OUT = 0.4


@pytest.fixture(autouse=True)
def quick(small_grid: Callable[..., None]) -> None:
    """Training is not what is tested here."""


def turned(log: PreferenceLog) -> PreferenceLog:
    """Every model has the score of the next one: what is learnt of it is wrong."""
    rows = []
    for one in log.comparisons:
        scores = one.scores or {}
        names = sorted(scores)
        others = names[1:] + names[:1]
        rows.append(replace(one, scores={name: scores[other] for name, other in zip(names, others, strict=True)}))
    return PreferenceLog(comparisons=rows)


def half(log: PreferenceLog) -> PreferenceLog:
    return PreferenceLog(comparisons=log.comparisons[: len(log) // 2])


def challenger(log: PreferenceLog, current: RouterArtifact, encoder: OnnxEncoder) -> tuple[Learnt, Challenge]:
    learnt = learn(log, encoder=encoder, reserve=reserve_of(current))
    return learnt, challenge(learnt, current)


def routing(artifact: RouterArtifact) -> RouterArtifact:
    """The artifact with the verdict that it is worth routing."""
    verdict = Verdict("ROUTE", "ROUTE: for the test.", artifact.best_fixed)
    return replace(artifact, tiers=(replace(artifact.best, verdict=verdict),))


def hashes(artifact: RouterArtifact) -> set[str]:
    return {bytes(one).hex() for one in artifact.prompt_hashes}


def test_neither_ever_learnt_from_the_rows_that_are_compared(scores_log: PreferenceLog, encoder: OnnxEncoder) -> None:
    current, _ = train(half(scores_log), encoder=encoder, hold_out=HOLD_OUT)
    learnt, done = challenger(scores_log, current, encoder)
    held_out = {prompt_hash(learnt.table.texts[row]) for row in np.flatnonzero(learnt.reserved)}
    assert held_out and not held_out & hashes(done.artifact) and not held_out & hashes(current)
    assert done.artifact.memory is not None and current.memory is not None
    assert (done.artifact.memory.key, done.artifact.memory.hold_out) == (current.memory.key, HOLD_OUT)
    assert done.comparison.clean and done.comparison.n_seen == 0
    assert done.comparison.n_rows == done.comparison.n_held_out == len(held_out)
    assert done.artifact.n_rows == 150 - len(held_out)
    later, again = challenger(scores_log, done.artifact, encoder)
    assert (later.reserved == learnt.reserved).all() and again.comparison.gain.mean == 0 and again.comparison.promoted


@pytest.mark.parametrize("kind", ["scores", "battles"])
def test_the_better_one_is_promoted_and_the_worse_one_is_not(
    kind: str, scores_log: PreferenceLog, encoder: OnnxEncoder
) -> None:
    def as_kind(log: PreferenceLog) -> PreferenceLog:
        if kind == "scores":
            return log
        rows = []
        for one in log.comparisons:
            for (left, x), (right, y) in combinations(sorted((one.scores or {}).items()), 2):
                winner = "tie" if x == y else "model_a" if x > y else "model_b"
                rows.append(Comparison(prompt=one.prompt, model_a=left, model_b=right, winner=winner))
        return PreferenceLog(comparisons=rows)

    good, bad = as_kind(scores_log), as_kind(turned(scores_log))
    wrong, _ = train(bad, encoder=encoder, hold_out=HOLD_OUT)
    learnt = learn(good, encoder=encoder, reserve=reserve_of(wrong))
    # So few battles prove nothing, and either would serve its best fixed model.
    up = challenge(replace(learnt, artifact=routing(learnt.artifact)), routing(wrong))
    assert up.comparison.promoted and up.comparison.gain.low > 0 and up.comparison.n_differ > 0
    assert up.comparison.reason.startswith("PROMOTED")
    assert up.comparison.challenger - up.comparison.current == pytest.approx(up.comparison.gain.mean)
    right, _ = train(good, encoder=encoder, hold_out=HOLD_OUT)
    assert right.memory is not None
    liar = learn(bad, encoder=encoder, reserve=Reserve(HOLD_OUT, right.memory.key))
    # What the liar learnt, judged by an honest log.
    honest = learn(good, encoder=encoder, reserve=Reserve(HOLD_OUT, right.memory.key))
    down = challenge(replace(honest, artifact=routing(liar.artifact), report=liar.report), routing(right)).comparison
    assert not down.promoted and down.gain.high < 0 and "must be at least 0" in down.reason


def test_an_artifact_that_held_nothing_out_is_favoured_and_that_is_said(
    scores_log: PreferenceLog, artifact: RouterArtifact, encoder: OnnxEncoder
) -> None:
    whole, _ = train(scores_log, encoder=encoder)
    for current in (whole, artifact):  # the second has no memory at all
        assert reserve_of(current).share == DEFAULT_HOLD_OUT
        learnt = learn(scores_log, encoder=encoder, reserve=reserve_of(current, HOLD_OUT))
        done = challenge(learnt, current).comparison
        assert not done.clean and done.n_seen == done.n_held_out == done.n_rows > 30
        assert "held no rows out" in done.reason and "favours it" in done.reason
        assert "seen by the current artifact" in done.render()


def test_rows_that_are_new_are_enough_without_a_key(scores_log: PreferenceLog, encoder: OnnxEncoder) -> None:
    """Only those that the current artifact never saw are compared."""
    current, _ = train(half(scores_log), encoder=encoder)
    learnt = learn(scores_log, encoder=encoder, reserve=reserve_of(current, 0.8))
    done = challenge(learnt, current).comparison
    assert done.clean and 30 <= done.n_rows < done.n_held_out and done.n_seen == done.n_held_out - done.n_rows


def test_without_held_out_rows_nothing_is_promoted(scores_log: PreferenceLog, encoder: OnnxEncoder) -> None:
    current, _ = train(scores_log, encoder=encoder)
    done = challenge(learn(scores_log, encoder=encoder, reserve=reserve_of(current, 0.0)), current).comparison
    assert not done.promoted and done.n_rows == 0 and "no rows that were held out" in done.reason


def test_other_models_altogether_cannot_be_compared(scores_log: PreferenceLog, encoder: OnnxEncoder) -> None:
    current, _ = train(scores_log, encoder=encoder, hold_out=HOLD_OUT)
    rows = [
        replace(one, scores={f"new-{name}": score for name, score in (one.scores or {}).items()})
        for one in scores_log.comparisons
    ]
    learnt = learn(PreferenceLog(comparisons=rows), encoder=encoder, reserve=reserve_of(current))
    with pytest.raises(DataError, match="knows none of the models"):
        challenge(learnt, current)


def test_the_command_writes_either_way_and_says_by_its_exit_code(
    scores_log: PreferenceLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(log: PreferenceLog, name: str) -> str:
        path = tmp_path / name
        rows = [{"prompt": one.prompt, "scores": dict(one.scores or {})} for one in log.comparisons]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    good, bad = write(scores_log, "good.jsonl"), write(turned(scores_log), "bad.jsonl")
    v1, v2, v3 = (str(tmp_path / name) for name in ("v1", "v2", "v3"))
    assert main(["train", bad, "--out", v1, "--hold-out", str(HOLD_OUT)]) == 0
    assert main(["train", good, "--out", v2, "--against", v1, "--json"]) == 0
    out = capsys.readouterr().out.splitlines()
    said = json.loads(out[-1])["details"]["challenge"]
    assert said["promoted"] and said["current_id"] == load_artifact(v1).id
    assert any(line.startswith("PROMOTED: ") for line in out)
    assert load_artifact(v2).report["details"]["challenge"] == said
    # Half of the rows turned round: worse, and written all the same.
    assert main(["train", good, bad, "--out", v3, "--against", v2]) in (0, NOT_PROMOTED)
    assert main(["train", bad, "--out", v3, "--against", v2, "--hold-out", "0"]) == NOT_PROMOTED
    assert "no rows that were held out" in capsys.readouterr().out
    assert load_artifact(v3).n_rows == 150


def without_texts(log: PreferenceLog, *encoders: OnnxEncoder) -> PreferenceLog:
    """The log as feedback without texts is read: with what these encoders saw in their place."""
    rows = []
    for one in log.comparisons:
        vectors = {encoder.id: encoder.encode(one.prompt).vector for encoder in encoders}
        kept = Kept(prompt_hash(one.prompt), vectors, surface_features(one.prompt))
        rows.append(replace(one, prompt="", kept=kept))
    return PreferenceLog(comparisons=rows)


def test_rows_without_text_are_asked_by_their_vectors(scores_log: PreferenceLog, encoder: OnnxEncoder) -> None:
    current, _ = train(half(scores_log), encoder=encoder, hold_out=HOLD_OUT)
    silent_log = without_texts(scores_log, encoder)
    told, silent = (
        learn(log, encoder=encoder, reserve=reserve_of(current), intents="none", template=template_of(log, current))
        for log in (scores_log, silent_log)
    )
    assert (told.reserved == silent.reserved).all()
    # The same artifacts, asked by text and by vector: nothing tells the two apart.
    by_text = challenge(replace(told, artifact=routing(told.artifact)), routing(current)).comparison
    by_vector = challenge(replace(silent, artifact=routing(told.artifact)), routing(current)).comparison
    assert by_text == by_vector and by_text.n_rows > 40 and by_text.n_differ > 0


def test_rows_that_one_of_both_never_saw_are_left_out(
    scores_log: PreferenceLog, encoder: OnnxEncoder, full_encoder: OnnxEncoder
) -> None:
    current, _ = train(half(scores_log), encoder=full_encoder, hold_out=HOLD_OUT)
    silent = without_texts(scores_log, encoder).comparisons
    mixed = PreferenceLog(comparisons=[*scores_log.comparisons[:100], *silent[100:]])
    learnt = learn(mixed, encoder=encoder, reserve=reserve_of(current))
    has_text = np.array([bool(text) for text in learnt.table.originals])
    done = challenge(learnt, current).comparison
    assert done.n_unasked == int((learnt.reserved & ~has_text).sum()) > 0
    assert done.n_held_out == int((learnt.reserved & has_text).sum()) > 0
    assert f"left out             {done.n_unasked} rows" in done.render()
    learnt = learn(PreferenceLog(comparisons=silent), encoder=encoder, reserve=reserve_of(current))
    done = challenge(learnt, current).comparison
    assert not done.promoted and done.n_rows == 0 and "none of the" in done.reason


def test_a_challenger_has_the_encoders_of_the_current_artifact(
    artifact: RouterArtifact, both_tiers: RouterArtifact
) -> None:
    for current in (artifact, both_tiers):
        found = encoders_of(current)
        assert [one.id for one in found] == [one.encoder.id for one in current.tiers]
        assert all(one.directory is not None for one in found)  # where the model of intents lies


def test_the_template_that_vectors_were_made_with_is_kept(scores_log: PreferenceLog, encoder: OnnxEncoder) -> None:
    """A prompt whose text is not kept has a vector of what the served template left of it."""
    opening = "Answer shortly and to the point, please: "

    def opened(log: PreferenceLog) -> PreferenceLog:
        return PreferenceLog(comparisons=[replace(one, prompt=opening + one.prompt) for one in log.comparisons])

    current, _ = train(opened(half(scores_log)), encoder=encoder, hold_out=HOLD_OUT)
    assert opening in current.template.prefixes
    silent = PreferenceLog(
        comparisons=[
            replace(one, kept=replace(one.kept, prompt_hash=prompt_hash(opening + text.prompt)))
            for one, text in zip(without_texts(scores_log, encoder).comparisons, scores_log.comparisons, strict=True)
            if one.kept is not None
        ]
    )
    learnt = learn(silent, encoder=encoder, reserve=reserve_of(current), template=template_of(silent, current))
    assert learnt.artifact.template == current.template and template_of(opened(scores_log), current) is None
    done = challenge(replace(learnt, artifact=routing(learnt.artifact)), routing(current)).comparison
    assert done.clean and done.n_rows == done.n_held_out > 40
    router = Router(learnt.artifact)
    known = {bytes(one).hex() for one in learnt.artifact.prompt_hashes}
    asked = next(one for one in opened(scores_log).comparisons if prompt_hash(one.prompt) in known)
    assert router.route(asked.prompt, latency_budget_ms=10_000, explain=True).neighbors[0].similarity > 0.999
    router.close()
    # It can be forgotten by its text, which the artifact never saw.
    assert forget(learnt.artifact, Wanted(prompts=[asked.prompt])).hashes == (prompt_hash(asked.prompt),)
