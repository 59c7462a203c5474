"""The loop, once around: a server keeps what it is told, the command line trains on it, and the new artifact routes."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router.artifact import load_artifact
from router.cli import NOT_PROMOTED, main
from router.client import Client
from router.encoder import OnnxEncoder
from router.errors import StoreError
from router.feedback.sqlite_store import SqliteReader, SqliteStore
from router.prompt import prompt_hash
from router.router import Router
from router.types import Verdict
from training import load
from training.build import train
from training.comparisons import PreferenceLog

NEWCOMER = "newcomer-small"
ASK = {"latency_budget_ms": 10_000}


@pytest.fixture(autouse=True)
def quick(small_grid: Callable[..., None]) -> None:
    """Training is not what is tested here."""


@contextmanager
def serving(artifact: Path, store: Path, **settings: str) -> Iterator[Client]:
    """Serve in another process, which holds the store."""
    process = subprocess.Popen(
        [sys.executable, "-m", "router.cli", "serve", str(artifact)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "WHICHMODEL_PORT": "0",
            "WHICHMODEL_LOG_DECISIONS": "false",
            "WHICHMODEL_FEEDBACK_STORE": str(store),
            **settings,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        announced = process.stdout.readline() if process.stdout is not None else ""
        if " at http://" not in announced:
            process.terminate()
            raise RuntimeError(f"the server did not start: {process.communicate()[1]}")
        url = announced.split(" at ")[1].split(": ")[0]
        with Client(url, default_model="none", timeout_ms=20_000) as client:
            yield client
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture
def current(tmp_path: Path, scores_log: PreferenceLog, encoder: OnnxEncoder) -> Path:
    first = PreferenceLog(comparisons=scores_log.comparisons[:75])
    artifact, _ = train(first, encoder=encoder, hold_out=0.2)
    artifact.write(tmp_path / "v1")
    return tmp_path / "v1"


def write_log(path: Path, log: PreferenceLog) -> str:
    rows = [{"prompt": one.prompt, "scores": dict(one.scores or {})} for one in log.comparisons]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def tell(client: Client, log: PreferenceLog) -> None:
    """Ask every prompt and rate the answer, and tell of a model that the artifact does not know: best at travel."""
    for row, one in enumerate(log.comparisons):
        answer = client.route(one.prompt, user=f"user {row % 5}", **ASK)
        assert answer.decision is not None and answer.problem is None
        rating = (one.scores or {})[answer.model]
        client.feedback(decision_id=answer.decision["decision_id"], rating=rating, must=True)
        score = 1.0 if one.intent == "travel" else 0.0
        client.feedback(prompt=one.prompt, model=NEWCOMER, score=score, user=f"user {row % 5}", must=True)


def details(out: str) -> dict[str, Any]:
    """Return the details of the report that --json prints last."""
    found: dict[str, Any] = json.loads(out.splitlines()[-1])["details"]
    return found


@pytest.mark.parametrize("keep_prompts", ["false", "true"])
def test_once_around(
    tmp_path: Path, current: Path, scores_log: PreferenceLog, capsys: pytest.CaptureFixture[str], keep_prompts: str
) -> None:
    store, v2, v3 = tmp_path / "feedback.db", tmp_path / "v2", tmp_path / "v3"
    later = PreferenceLog(comparisons=scores_log.comparisons[75:])
    source = write_log(tmp_path / "first.jsonl", PreferenceLog(comparisons=scores_log.comparisons[:75]))
    train_on = ["train", source, "--from-feedback", str(store), "--against", str(current), "--json"]
    with serving(current, store, WHICHMODEL_FEEDBACK_KEEP_PROMPTS=keep_prompts) as client:
        tell(client, later)
        # The server goes on holding the store.
        assert main([*train_on, "--out", str(v2)]) in (0, NOT_PROMOTED)
        client.feedback(prompt="Is there another one?", model=NEWCOMER, score=1.0, must=True)
    out = capsys.readouterr().out
    n_kept = 0 if keep_prompts == "true" else 75
    assert f"feedback   150 events of {store}: {150 - 2 * n_kept} with text, {2 * n_kept} without" in out
    assert "not used" not in out
    said = details(out)
    assert said["feedback"]["n_rows_without_text"] == n_kept and said["challenge"]["n_unasked"] == 0
    assert said["challenge"]["n_held_out"] == said["n_held_out_for_challengers"]

    learnt = load_artifact(v2)
    assert NEWCOMER in learnt.models and learnt.n_rows == 150 - said["n_held_out_for_challengers"]
    assert learnt.best.encoder.id == load_artifact(current).best.encoder.id
    # So few rows prove nothing, and it would serve its best fixed model.
    verdict = Verdict("ROUTE", "ROUTE: for the test.", learnt.best_fixed)
    router = Router(replace(learnt, tiers=(replace(learnt.best, verdict=verdict),)))
    by_intent = {
        intent: [
            router.route(one.prompt, latency_budget_ms=10_000).model
            for one in later.comparisons
            if one.intent == intent
        ]
        for intent in ("travel", "code")
    }
    router.close()
    assert by_intent["travel"].count(NEWCOMER) >= 20 and by_intent["code"].count(NEWCOMER) <= 2

    # Nobody holds the store now.
    assert main(["feedback", "delete", "--store", str(store), "--user", "user 0", "--yes"]) == 0
    assert main([*train_on, "--out", str(v3)]) in (0, NOT_PROMOTED)
    gone = {prompt_hash(one.prompt) for one in later.comparisons[::5]}
    left = {bytes(one).hex() for one in load_artifact(v3).prompt_hashes}
    assert gone & {bytes(one).hex() for one in learnt.prompt_hashes} and not gone & left


def test_a_rating_beside_battles_is_told_to_be_idle(
    tmp_path: Path, current: Path, scores_log: PreferenceLog, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "feedback.db"
    with serving(current, store) as client:
        for one in scores_log.comparisons[75:85]:
            answer = client.route(one.prompt, **ASK)
            assert answer.decision is not None
            client.feedback(decision_id=answer.decision["decision_id"], rating=1.0, must=True)
        client.feedback(
            prompt="Which is it?", model_a="coder-medium", model_b="chef-large", winner="model_a", must=True
        )
    source = write_log(tmp_path / "log.jsonl", scores_log)
    assert main(["train", source, "--from-feedback", str(store), "--out", str(tmp_path / "v2")]) == 0
    out = capsys.readouterr().out
    assert "not used: 10 ratings of one model alone" in out


class TestTroubles:
    def run(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        """Return the one line that an error is."""
        assert main(["train", *arguments]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    def test_neither_sources_nor_feedback(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        line = self.run(capsys, "--out", str(tmp_path / "v2"))
        assert "got no SOURCE" in line and "--from-feedback" in line

    def test_the_store_is_empty(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "feedback.db"
        SqliteStore(path).close()
        line = self.run(capsys, "--from-feedback", str(path), "--out", str(tmp_path / "v2"))
        assert f"{path}: the feedback store holds no events yet" in line and not (tmp_path / "v2").exists()

    def test_there_is_no_such_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "none.db"
        line = self.run(capsys, "--from-feedback", str(path), "--out", str(tmp_path / "v2"))
        assert f"{path}: no such file, expected a feedback store" in line and not path.exists()

    @pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" + b"x" * 4096, b'{"prompt": "a log"}\n' * 50])
    def test_it_is_no_store(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
        path = tmp_path / "other.db"
        path.write_bytes(content)
        line = self.run(capsys, "--from-feedback", str(path), "--out", str(tmp_path / "v2"))
        assert line.startswith(f"whichmodel: {path}: ")
        assert "feedback store" in line or "no SQLite database" in line
        assert path.read_bytes() == content and not (tmp_path / "v2").exists()


@pytest.mark.parametrize("where", ["training.build.weigh", "training.build.fit_tier", "training.challenge.gain_over"])
def test_an_interrupt_leaves_what_was_there(
    tmp_path: Path,
    current: Path,
    scores_log: PreferenceLog,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    store, source = tmp_path / "feedback.db", write_log(tmp_path / "log.jsonl", scores_log)
    with serving(current, store) as client:
        client.feedback(prompt="Which is it?", model="chef-large", score=1.0, must=True)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    before = sorted(one.name for one in tmp_path.iterdir())
    was = load_artifact(current).id
    train_on = ["train", source, "--from-feedback", str(store), "--against", str(current)]
    assert main([*train_on, "--out", str(tmp_path / "v2")]) == 130
    assert main([*train_on, "--out", str(current)]) == 130
    assert "nothing was left half-written" in capsys.readouterr().err
    # SQLite's log and its index, which a reader may leave empty beside the store, aside.
    after = sorted(one.name for one in tmp_path.iterdir() if not one.name.endswith(("-wal", "-shm")))
    assert after == before and load_artifact(current).id == was
    with SqliteReader(store) as reader:
        assert reader.check() == 1


def test_a_store_that_another_program_holds_alone(tmp_path: Path, current: Path) -> None:
    store = tmp_path / "feedback.db"
    with serving(current, store) as client:
        client.feedback(prompt="Which is it?", model="chef-large", score=1.0, must=True)
    holder = sqlite3.connect(store, isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StoreError, match=r"feedback\.db: .*locked"):
            load(feedback=store)
    finally:
        holder.close()
