"""router/memory.py: what is written is what is read, rows go whole, and impossible numbers are refused by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import ArtifactError
from router.memory import FACTS, HASH_BYTES, MEMORY_ARRAYS, MEMORY_FILES, Memory, read_memory, user_hash

N_MODELS, N_TIERS = 3, 2
KEY = bytes(range(16))
ROOT = Path("v1")


def memory_of(n_rows: int, seed: int = 0, *, known: bool = True) -> Memory:
    """Rows of which each has two battles, its number as its weight, and one or two of three users."""
    rng = np.random.default_rng(seed)
    rows = np.arange(n_rows, dtype=np.int32)
    cells = rng.random((n_rows, N_MODELS)).astype(np.float32)
    cells[rng.random(cells.shape) < 0.3] = np.nan
    pairs = sorted({(int(row), f"user-{rng.integers(3)}") for row in np.repeat(rows, 2)})
    hashes = b"".join(user_hash(KEY, user) for _, user in pairs)
    fought = np.repeat(rows, 2)
    return Memory(
        key=KEY,
        hold_out=0.1,
        seed=3,
        margin=0.01,
        in_time=False,
        n_forgotten=0,
        groups=rng.integers(0, max(n_rows // 2, 1), n_rows).astype(np.int32),
        unreadable=rng.random((n_rows, N_TIERS)) < 0.1,
        row_weight=(rows + 1).astype(np.float32),
        input_tokens=rows.copy(),
        timestamps=np.full(n_rows, np.nan),
        scores=cells if known else np.full_like(cells, np.nan),
        costs_usd=np.full_like(cells, np.nan),
        output_tokens=cells * 10,
        battles=np.stack([fought, fought % 2, 2 + 0 * fought, 0 * fought], axis=1).astype(np.int32),
        battle_values=np.stack([np.ones(len(fought)), fought + 1.0], axis=1).astype(np.float32),
        user_rows=np.array([row for row, _ in pairs], dtype=np.int32),
        user_hashes=np.frombuffer(hashes, dtype=np.uint8).reshape(-1, HASH_BYTES).copy(),
    )


def read(memory: Memory, n_rows: int, **files: bytes) -> Memory | None:
    return read_memory(memory.files() | files, ROOT, n_rows, N_MODELS, N_TIERS)


def assert_same(one: Memory, other: Memory) -> None:
    for name in MEMORY_ARRAYS:
        assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan=name != "user_hashes"), name
    assert one.files() == other.files()


@given(st.integers(1, 12), st.integers(0, 99), st.booleans())
def test_what_is_written_is_what_is_read(n_rows: int, seed: int, known: bool) -> None:
    memory = memory_of(n_rows, seed, known=known)
    assert set(memory.files()) == set(MEMORY_FILES)
    again = read(memory, n_rows)
    assert again is not None
    assert_same(memory, again)


@given(st.integers(2, 12), st.integers(0, 99), st.data())
def test_rows_go_whole(n_rows: int, seed: int, data: st.DataObject) -> None:
    """A row's weight is its old number plus one, so that everything can be traced to where it was."""
    memory = memory_of(n_rows, seed)
    gone = np.array(data.draw(st.lists(st.booleans(), min_size=n_rows, max_size=n_rows)))
    left = memory.without(gone)
    kept = np.flatnonzero(~gone)
    assert (left.row_weight - 1).tolist() == kept.tolist() and left.n_forgotten == gone.sum()
    assert left.battle_values[:, 1].tolist() == [row + 1 for row in kept for _ in range(2)]
    assert (left.battles[:, 0]).tolist() == [row for row in range(len(kept)) for _ in range(2)]
    for user in ("user-0", "user-1", "user-2"):
        before = [row for row in memory.rows_of_user(user).tolist() if not gone[row]]
        assert kept[left.rows_of_user(user)].tolist() == before


def test_users_are_told_apart_by_the_key_alone() -> None:
    assert user_hash(KEY, "ann") == user_hash(KEY, "ann") != user_hash(KEY, "bob")
    assert user_hash(KEY, "ann") != user_hash(bytes(16), "ann")
    assert memory_of(3).rows_of_user("nobody").tolist() == []


def test_no_memory_is_none_and_half_a_memory_is_refused() -> None:
    memory = memory_of(5)
    assert read_memory({}, ROOT, 5, N_MODELS, N_TIERS) is None
    files = memory.files()
    del files["memory/groups.npy"]
    with pytest.raises(ArtifactError, match=r"memory/groups.npy: missing"):
        read_memory(files, ROOT, 5, N_MODELS, N_TIERS)


BAD: dict[str, Any] = {
    "groups": lambda a: a - 99,
    "row_weight": lambda a: a * np.float32(np.nan),
    "input_tokens": lambda a: a - 99,
    "timestamps": lambda a: a + np.inf,
    "scores": lambda a: np.nan_to_num(a) + 2,
    "costs_usd": lambda a: np.nan_to_num(a) - 1,
    "output_tokens": lambda a: np.nan_to_num(a) - 1,
    "battles": lambda a: a + 99,
    "battle_values": lambda a: a - 2,
    "user_rows": lambda a: a + 99,
    "user_hashes": lambda a: a[:-1],
    "unreadable": lambda a: a[:, :1],
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_impossible_arrays_are_refused_by_name(name: str) -> None:
    memory = memory_of(5)
    if name == "timestamps":
        memory = replace(memory, timestamps=np.zeros(5))
    bad = replace(memory, **{name: BAD[name](getattr(memory, name))})
    with pytest.raises(ArtifactError, match=rf"memory/{name}.npy"):
        read(bad, 5)


@pytest.mark.parametrize("facts", [b"{}", b'{"key": 1}', b"[]", b"\xff"])
def test_impossible_facts_are_refused_by_name(facts: bytes) -> None:
    with pytest.raises(ArtifactError, match=FACTS):
        read(memory_of(5), 5, **{FACTS: facts})


@pytest.mark.parametrize("change", [{"key": b"short"}, {"hold_out": 1.5}, {"seed": -1}])
def test_facts_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=FACTS):
        read(replace(memory_of(5), **change), 5)
