"""``whichmodel feedback``: list, export, delete, stats, beside a running writer and without one."""

import io
import json
import sys

import pytest

from router.cli import main
from router.feedback.events import Battle, Details, FeedbackEvent, PendingDecision, Score
from router.feedback.sqlite_store import SqliteReader, SqliteStore
from router.prompt import prompt_hash

NOW_S = 1_800_000_000.0  # 2027-01-15T08:00:00Z


@pytest.fixture
def path(tmp_path):
    """A store with two battles, a score and two verdicts, one of them without text."""
    file = tmp_path / "f.db"
    with SqliteStore(file, clock=lambda: NOW_S) as store:
        for n, (text, user) in enumerate((("Name a river.", "ann"), ("Sort\nthis list. " + "x" * 80, "bob"))):
            store.add_event(
                FeedbackEvent.of_prompt(
                    text,
                    Battle("small", "large", "model_b"),
                    judge="panel",
                    received_s=NOW_S + n,
                    details=Details(costs_usd={"small": 0.25}, user=user, metadata={"page": n}),
                )
            )
        store.add_event(FeedbackEvent.of_prompt("Name a river.", Score("large", 0.75), judge="k", received_s=NOW_S + 2))
        for n, text in enumerate((None, "Which tea?")):
            store.add_event(
                FeedbackEvent(
                    received_s=NOW_S + 3 + n,
                    judge="k",
                    outcome=Score("small", 1),
                    prompt_hash=prompt_hash("Which tea?"),
                    prompt=text,
                    details=Details(user="ann"),
                    decision_id=f"d{n}",
                    intent="tea",
                    propensity=0.5,
                )
            )
        store.add_pending(
            PendingDecision("d9", NOW_S, NOW_S + 1e6, "k", "a", "full", ("small",), "small", 1.0, "h" * 32, user="ann")
        )
    return str(file)


def test_list_shows_events_and_where_to_go_on(path, capsys):
    assert main(["feedback", "list", "--store", path, "--limit", "4"]) == 0

    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == [
        *("1", "2027-01-15T08:00:00Z", "battle", "small", "against", "large:", "model_b"),
        *('"Name', "a", 'river."'),
    ]
    assert len(lines) == 4
    assert max(map(len, lines)) < 140
    assert lines[3].endswith(f"verdict  small: 1  {prompt_hash('Which tea?')}")
    assert "--after 4" in err
    assert main(["feedback", "list", "--store", path, "--after", "4"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split()[:2] == ["5", "2027-01-15T08:00:04Z"]
    assert err == ""


def test_list_as_json_holds_all_that_is_kept(path, capsys):
    main(["feedback", "list", "--store", path, "--json"])

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["kind"] for row in rows] == ["battle", "battle", "score", "verdict", "verdict"]
    assert rows[1]["metadata"] == {"page": 1}
    assert (rows[3]["decision_id"], rows[3]["intent"], rows[3]["user"]) == ("d0", "tea", "ann")
    assert all(row["prompt_hash"] for row in rows)


def test_export_is_a_log_that_training_reads(path, tmp_path, capsys):
    pytest.importorskip("pandas")
    from training import load

    out = tmp_path / "log.jsonl"
    assert main(["feedback", "export", "--store", path, "--out", str(out)]) == 0

    err = capsys.readouterr().err
    assert "4 events exported; the next time, --after 5" in err
    assert "1 events whose text is not kept: left out" in err
    assert out.stat().st_mode & 0o777 == 0o600
    log = load(out)
    assert not log.refusals
    battle, score, verdict = log.comparisons[0], log.comparisons[2], log.comparisons[3]
    assert (battle.prompt, battle.model_a, battle.model_b, battle.winner) == (
        *("Name a river.", "small", "large"),
        "model_b",
    )
    assert (battle.costs_usd, battle.judge, battle.user, battle.timestamp) == ({"small": 0.25}, "panel", "ann", NOW_S)
    assert score.scores == {"large": 0.75}
    assert (verdict.prompt, verdict.scores, verdict.intent, verdict.user) == ("Which tea?", {"small": 1}, "tea", "ann")


def test_export_goes_on_where_the_last_one_ended(path, capsys):
    assert main(["feedback", "export", "--store", path, "--after", "4"]) == 0
    out, err = capsys.readouterr()

    assert [json.loads(line)["seq"] for line in out.splitlines()] == [5]
    assert "1 events exported; the next time, --after 5" in err
    assert main(["feedback", "export", "--store", path, "--after", "5"]) == 0
    assert "0 events exported; the next time, --after 5" in capsys.readouterr().err


def test_export_can_hold_hashes(path, capsys):
    assert main(["feedback", "export", "--store", path, "--with-hashes"]) == 0
    out, err = capsys.readouterr()

    rows = [json.loads(line) for line in out.splitlines()]
    assert [("prompt" in row, "prompt_hash" in row) for row in rows][3] == (False, True)
    assert "train will refuse them" in err


def test_an_export_that_cannot_be_written_leaves_nothing(path, tmp_path, capsys):
    assert main(["feedback", "export", "--store", path, "--out", str(tmp_path / "no" / "log.jsonl")]) == 1
    assert "cannot be written" in capsys.readouterr().err
    (tmp_path / "log.jsonl").mkdir()
    assert main(["feedback", "export", "--store", path, "--out", str(tmp_path / "log.jsonl")]) == 1
    assert not list(tmp_path.glob(".log*"))


@pytest.mark.parametrize(
    ("condition", "left", "n_pending"),
    [
        (["--user", "ann"], [2, 3], 0),
        (["--prompt-hash", prompt_hash("Name a river.")], [2, 4, 5], 1),
        (["--before", "2027-01-15T08:00:03"], [4, 5], 0),
        (["--before", "2027-01-15T10:00:03+02:00"], [4, 5], 0),
        (["--before", "2027-01-15"], [1, 2, 3, 4, 5], 1),
        (["--user", "ann", "--before", "2027-01-15T08:00:03Z"], [2, 3, 4, 5], 0),
    ],
)
def test_delete_removes_what_is_asked_for_alone(path, capsys, condition, left, n_pending):
    assert main(["feedback", "delete", "--store", path, "--yes", *condition]) == 0

    assert f"deleted {5 - len(left)} events and {1 - n_pending} pending decisions" in capsys.readouterr().out
    with SqliteReader(path) as store:
        assert [one.seq for one in store.events()] == left
        assert store.stats().n_pending == n_pending


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("typed", "left", "code"), [("y\n", 2, 0), ("yes\n", 2, 0), ("n\n", 5, 1), ("\n", 5, 1), ("", 5, 1)]
)
def test_delete_asks_first(path, capsys, monkeypatch, typed, left, code):
    monkeypatch.setattr(sys, "stdin", Terminal(typed))

    assert main(["feedback", "delete", "--store", path, "--user", "ann"]) == code

    assert "delete all feedback of user ann from" in capsys.readouterr().err
    with SqliteReader(path) as store:
        assert store.stats().n_events == left


def test_delete_without_a_terminal_needs_yes(path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))

    assert main(["feedback", "delete", "--store", path, "--user", "ann"]) == 1
    assert "say --yes" in capsys.readouterr().err


def test_delete_beside_a_running_writer_says_what_to_do(path, capsys):
    with SqliteStore(path) as store:
        assert main(["feedback", "delete", "--store", path, "--user", "ann", "--yes"]) == 1
        assert store.stats().n_events == 5

    err = capsys.readouterr().err
    assert "stop it first, delete, and start it again; nothing was deleted" in err


def test_delete_needs_a_condition_and_a_store(path, tmp_path, capsys):
    assert main(["feedback", "delete", "--store", path, "--yes"]) == 1
    assert "expected a user, a prompt hash or a date" in capsys.readouterr().err
    assert main(["feedback", "delete", "--store", str(tmp_path / "typo.db"), "--user", "ann", "--yes"]) == 1
    assert "no such file" in capsys.readouterr().err
    assert not list(tmp_path.glob("typo*"))
    with pytest.raises(SystemExit):
        main(["feedback", "delete", "--store", path, "--before", "yesterday"])
    assert "expected a date like 2026-01-31" in capsys.readouterr().err


def test_stats_beside_a_running_writer(path, capsys):
    with SqliteStore(path) as store:
        store.add_event(FeedbackEvent.of_prompt("x", Score("m", 1), judge="k", received_s=NOW_S)).result(10)
        assert main(["feedback", "stats", "--store", path, "--check", "--json"]) == 0

    checked, line = capsys.readouterr().out.splitlines()
    stats = json.loads(line)
    assert checked == "ok: the structure is sound, and 6 events are as they were written"
    assert (stats["n_events"], stats["kinds"]) == (6, {"verdict": 2, "battle": 2, "score": 2})
    assert (stats["first_received_s"], stats["last_received_s"]) == (NOW_S, NOW_S + 4)


def test_stats_for_people(path, capsys):
    assert main(["feedback", "stats", "--store", path]) == 0

    out = capsys.readouterr().out
    assert "events   5 (2 verdicts, 2 battles, 1 score); 4 with their text; the last number is 5" in out
    assert "received 2027-01-15T08:00:00Z to 2027-01-15T08:00:04Z" in out


def test_a_damaged_store_is_one_line(path, capsys):
    with open(path, "r+b") as file:
        raw = file.read()
        file.seek(raw.index(b"Name a river."))
        file.write(b"n")

    assert main(["feedback", "list", "--store", path]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("verb", ["list", "export", "delete", "stats"])
def test_help_of_every_verb(verb, capsys):
    with pytest.raises(SystemExit) as left:
        main(["feedback", verb, "--help"])

    assert left.value.code == 0
    assert len(capsys.readouterr().out) > 300
