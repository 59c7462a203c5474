"""training/reserve.py: which rows are never learnt from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.prompt import prompt_hash
from training.reserve import log_key, reserved_rows

KEY = bytes(range(16))


def texts(n: int, start: int = 0) -> list[str]:
    """Return the hashes of n texts."""
    return [prompt_hash(f"prompt {number}") for number in range(start, start + n)]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.floats(0, 0.9), st.binary(min_size=16, max_size=16))
def test_groups_go_whole_and_in_any_order(groups: list[int], share: float, key: bytes) -> None:
    names, codes = texts(len(groups)), np.array(groups)
    drawn = reserved_rows(names, codes, key, share)
    for group in set(groups):
        assert len(set(drawn[codes == group].tolist())) == 1
    back = reserved_rows(names[::-1], codes[::-1], key, share)
    assert (back[::-1] == drawn).all()
    assert log_key(names) == log_key(names[::-1])


def test_the_share_is_kept_whatever_the_groups() -> None:
    """Not: the larger the group, the likelier one of its members draws it."""
    alone = reserved_rows(texts(4000), np.arange(4000), KEY, 0.1)
    in_tens = reserved_rows(texts(40_000), np.arange(40_000) // 10, KEY, 0.1)
    assert alone.mean() == pytest.approx(0.1, abs=0.015)
    assert in_tens.mean() == pytest.approx(0.1, abs=0.015)
    assert not reserved_rows(texts(100), np.arange(100), KEY, 0.0).any()


def test_what_else_is_in_the_log_does_not_matter() -> None:
    alone = reserved_rows(texts(500), np.arange(500), KEY, 0.2)
    beside = reserved_rows(texts(900), np.arange(900), KEY, 0.2)
    assert (beside[:500] == alone).all()
    assert (reserved_rows(texts(500), np.arange(500), bytes(16), 0.2) != alone).any()


def test_a_larger_share_holds_out_the_same_rows_and_more() -> None:
    less, more = (reserved_rows(texts(500), np.arange(500), KEY, share) for share in (0.1, 0.3))
    assert (more | ~less).all() and more.sum() > less.sum()


def test_a_newcomer_to_a_group_rarely_changes_what_is_drawn() -> None:
    groups = np.arange(3000) // 3
    before = reserved_rows(texts(3000), groups, KEY, 0.2)[::3]
    names = texts(3000) + texts(1000, start=3000)
    after = reserved_rows(names, np.concatenate([groups, np.arange(1000)]), KEY, 0.2)[:3000:3]
    assert 0.02 < (before != after).mean() < 0.14  # expected 2 * 0.2 * 0.8 / 4


def test_an_impossible_share_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="below 1"):
        reserved_rows(texts(3), np.arange(3), KEY, 1.0)


def test_log_keys_differ_by_content() -> None:
    assert len(log_key(texts(3))) == 16 and log_key(texts(3)) != log_key(texts(4))
