"""Decision ids: nobody else can make one, alter one, or use one after its time; the secret is its owner's alone."""

import os
import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import ExpiredDecisionError, ForgedDecisionError, StoreError
from router.feedback.signing import DecisionSigner, secret_beside

SIGNER = DecisionSigner(b"s" * 32, ttl_s=100)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def test_an_id_is_good_until_it_expires():
    made = SIGNER.new_id("key", 1000.0)

    assert SIGNER.check(made, 1000.0) == 1100
    assert SIGNER.check(made, 1099.9) == 1100
    with pytest.raises(ExpiredDecisionError, match="expired 5 s ago"):
        SIGNER.check(made, 1105.0)


def test_ids_are_distinct_and_fit_a_header():
    made = {SIGNER.new_id("key", 1000.0) for _ in range(1000)}

    assert len(made) == 1000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", one) for one in made)


@given(position=st.integers(0, 42), letter=st.sampled_from(ALPHABET))
def test_an_id_with_any_other_character_is_forged(position, letter):
    made = SIGNER.new_id("key", 1000.0)
    altered = made[:position] + letter + made[position + 1 :]

    if altered != made:
        with pytest.raises(ForgedDecisionError):
            SIGNER.check(altered, 1000.0)


@given(st.text(max_size=60) | st.text(ALPHABET, min_size=43, max_size=43))
def test_any_other_text_is_forged(text):
    with pytest.raises(ForgedDecisionError):
        SIGNER.check(text, 1000.0)


def test_a_longer_life_cannot_be_written_into_an_id():
    """An expired id is told from one that was altered to be in time."""
    made, later = SIGNER.new_id("key", 1000.0), SIGNER.new_id("key", 5000.0)

    for at in range(43):
        with pytest.raises((ForgedDecisionError, ExpiredDecisionError)):
            SIGNER.check(made[:at] + later[at:] if at else made, 4000.0)


def test_another_secret_makes_other_ids():
    with pytest.raises(ForgedDecisionError, match="signature"):
        SIGNER.check(DecisionSigner(b"t" * 32, ttl_s=100).new_id("key", 1000.0), 1000.0)


def test_an_id_is_of_the_key_it_was_made_for():
    made = SIGNER.new_id("key", 1000.0)

    assert SIGNER.check(made, 1000.0, only_for="key") == 1100
    with pytest.raises(ForgedDecisionError, match="another API key"):
        SIGNER.check(made, 1000.0, only_for="other")


def test_the_secret_is_not_printed():
    assert "ssss" not in repr(SIGNER)


@pytest.mark.parametrize("wrong", [{"secret": b"short"}, {"secret": b"s" * 32, "ttl_s": 0}])
def test_a_short_secret_or_no_life_is_a_mistake(wrong):
    with pytest.raises(ValueError, match="must"):
        DecisionSigner(**wrong)


def test_the_secret_is_made_once_for_its_owner_alone(tmp_path):
    first = secret_beside(tmp_path / "f.db")

    assert len(first) == 32
    assert (tmp_path / "f.db.secret").stat().st_mode & 0o777 == 0o600
    assert secret_beside(tmp_path / "f.db") == first
    assert [one.name for one in tmp_path.iterdir()] == ["f.db.secret"]


def test_processes_that_start_together_have_the_same_secret(tmp_path):
    barrier, found = threading.Barrier(8), []

    def start():
        barrier.wait()
        found.append(secret_beside(tmp_path / "f.db"))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_secret_that_others_may_read_is_refused(tmp_path):
    secret_beside(tmp_path / "f.db")
    os.chmod(tmp_path / "f.db.secret", 0o644)

    with pytest.raises(StoreError, match="got mode 644, expected 600"):
        secret_beside(tmp_path / "f.db")


def test_a_file_that_is_no_secret_is_refused(tmp_path):
    path = tmp_path / "f.db.secret"
    path.touch(0o600)

    with pytest.raises(StoreError, match="expected 32 bytes"):
        secret_beside(tmp_path / "f.db")
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_bytes(b"x" * 32)
    with pytest.raises(StoreError, match="cannot be read"):
        secret_beside(tmp_path / "f.db")
    with pytest.raises(StoreError, match="cannot be read or made"):
        secret_beside(tmp_path / "nowhere" / "f.db")
