"""Small versions of the proofs of the feedback store (``make prove-feedback`` runs them in full), and of their disk."""

import random
import shutil
import sys
from dataclasses import replace

import pytest
from feedback_client import event_of
from feedback_faults import fail_all
from feedback_kill import examined, kill_many
from feedback_power import Disk, Op, cut_many

from router.feedback.events import Score
from router.feedback.sqlite_store import SqliteStore

NEEDS_SHIM = pytest.mark.skipif(
    sys.platform != "linux" or not (shutil.which("cc") or shutil.which("gcc")),
    reason="the library that records writes needs Linux and a C compiler",
)


def test_kill_9_loses_and_doubles_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    numbers = kill_many(20, seed=1)

    assert numbers["acknowledged"] > 200
    assert (numbers["lost"], numbers["doubled"], numbers["altered"]) == (0, 0, 0)


def test_an_event_that_is_not_there_or_is_another_is_seen(tmp_path):
    with SqliteStore(tmp_path / "f.db") as store:
        for key in ("0-0-0", "0-0-1"):
            store.add_event(event_of(key)).result(10)
        event = event_of("0-0-2")
        store.add_event(replace(event, outcome=Score("small", 0))).result(10)
    acked = {"0-0-0": 1, "0-0-1": 5, "0-0-2": 3, "0-0-9": 9}

    numbers = examined(tmp_path / "f.db", 0, dict(acked), acked)

    assert numbers["lost"] == 2
    assert numbers["altered"] == 1


@NEEDS_SHIM
def test_a_power_cut_loses_nothing():
    numbers = cut_many("FULL", 150, seed=2)

    assert (numbers["cuts"], numbers["cuts_with_loss"], numbers["cuts_damaged"]) == (150, 0, 0), numbers["first_loss"]
    assert numbers["cuts_with_unsynced"] > 75


@NEEDS_SHIM
@pytest.mark.parametrize("level", ["NORMAL", "OFF"])
def test_the_same_cuts_find_what_a_store_that_does_not_sync_loses(level):
    numbers = cut_many(level, 100, seed=2)

    assert numbers["cuts_with_loss"] > 10


@NEEDS_SHIM
def test_a_failing_disk_gets_no_false_acknowledgement(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    for fault, one in fail_all().items():
        if "skipped" not in one:
            assert one["errors"], fault
            assert all("StoreFailedError" in error or "StoreError" in error for error in one["errors"]), fault
            assert (one.get("lost", 0), one["false_acks"]) == (0, 0), fault


def op(kind, offset=0, data=b"", file=1):
    return Op(kind, file, offset, data)


def test_what_was_synced_survives_and_what_was_not_may_be_any_part():
    disk = Disk()
    for one in (op("C"), op("W", 0, b"a" * 1024), op("S"), op("D"), op("W", 0, b"b" * 1024), op("W", 1024, b"c" * 512)):
        disk.take(one)

    assert disk.after_cut(random.Random(0), "none") == {"": b"a" * 1024}
    assert disk.after_cut(random.Random(0), "all") == {"": b"b" * 1024 + b"c" * 512}
    writes = {disk.after_cut(random.Random(seed), "writes")[""] for seed in range(100)}
    ends = (b"", b"c" * 512)
    assert writes == {first * 1024 + end for first in (b"a", b"b") for end in ends}
    torn = {disk.after_cut(random.Random(seed), "sectors")[""] for seed in range(200)}
    assert b"a" * 512 + b"b" * 512 in torn
    assert all(len(one) in (1024, 1536) for one in torn)


def test_a_name_is_there_once_its_directory_was_synced():
    disk = Disk()
    for one in (op("C"), op("W", 0, b"a"), op("S")):
        disk.take(one)
    assert disk.after_cut(random.Random(0), "none") == {}
    disk.take(op("D"))
    assert disk.after_cut(random.Random(0), "none") == {"": b"a"}

    for one in (op("U"), op("C", file=2), op("W", 0, b"b", file=2)):
        disk.take(one)

    assert disk.after_cut(random.Random(0), "none") == {"": b"a"}
    assert disk.after_cut(random.Random(0), "all") == {"": b"b"}
    found = {tuple(disk.after_cut(random.Random(seed), "writes").items()) for seed in range(100)}
    assert found == {(("", b"a"),), (), (("", b"b"),), (("", b""),)}


def test_a_truncation_is_a_step_like_a_write():
    disk = Disk()
    for one in (op("C"), op("D"), op("W", 0, b"abcd"), op("S"), op("T", 2), op("T", 3)):
        disk.take(one)

    assert disk.after_cut(random.Random(0), "none") == {"": b"abcd"}
    assert disk.after_cut(random.Random(0), "all") == {"": b"ab\0"}
