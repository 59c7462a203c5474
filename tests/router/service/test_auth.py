"""Keys: read from lines or a file, checked against every hash; and which binds need one."""

import hashlib
import hmac
from pathlib import Path

import pytest

from router.errors import ConfigError
from router.service.auth import ApiKeys, check_bind, offered_key

KEYS = ApiKeys.from_lines(["first-key", "second-key"], "the test")


def test_each_key_is_accepted_and_nothing_else() -> None:
    assert KEYS.accept(b"first-key")
    assert KEYS.accept(b"second-key")
    for wrong in (b"", b"first-ke", b"first-key ", b"FIRST-KEY", b"\xff\x00", hashlib.sha256(b"first-key").digest()):
        assert not KEYS.accept(wrong)


def test_every_hash_is_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(given: bytes, ours: bytes) -> bool:
        compared.append(ours)
        return given == ours

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert KEYS.accept(b"first-key")
    assert compared == list(KEYS.hashes)


def test_keys_are_kept_as_hashes_and_not_shown() -> None:
    assert KEYS.hashes == tuple(hashlib.sha256(key).digest() for key in (b"first-key", b"second-key"))
    assert "first-key" not in repr(KEYS)
    assert str(list(KEYS.hashes[0])) not in repr(KEYS)


def test_a_file_has_a_key_per_line_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# production\n\n  first-key  \n# old\nsecond-key\n")
    assert ApiKeys.from_file(path) == KEYS


def test_a_file_without_keys_is_refused_rather_than_open(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# nothing yet\n")
    with pytest.raises(ConfigError, match="holds no API key"):
        ApiKeys.from_file(path)


def test_a_missing_or_binary_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent"):
        ApiKeys.from_file(tmp_path / "absent")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary.*UTF-8"):
        ApiKeys.from_file(tmp_path / "binary")


@pytest.mark.parametrize("key", ["two words", "schlüssel", "tab\there"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ConfigError, match="key 2") as caught:
        ApiKeys.from_lines(["fine", key], "the test")
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        ([(b"authorization", b"Bearer abc")], b"abc"),
        ([(b"authorization", b"bearer  abc ")], b"abc"),
        ([(b"authorization", b"Basic abc")], None),
        ([(b"authorization", b"abc")], None),
        ([(b"x-api-key", b"abc")], b"abc"),
        ([(b"authorization", b"Bearer abc"), (b"x-api-key", b"def")], b"def"),
        ([(b"authorization", b"Bearer abc"), (b"authorization", b"Bearer def")], b"abc"),
    ],
)
def test_where_a_key_is_looked_for(headers: list[tuple[bytes, bytes]], key: bytes | None) -> None:
    assert offered_key(headers) == key


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.0.9", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    check_bind(host, ApiKeys())


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "::",
        "",
        "10.0.0.1",
        "8.8.8.8",
        "example.com",
        "localhost.example.com",
        "127.0.0.1.nip.io",
        "0",
        "2130706433",
    ],
)
def test_other_addresses_need_one(host: str) -> None:
    with pytest.raises(ConfigError, match="without an API key"):
        check_bind(host, ApiKeys())
    check_bind(host, KEYS)
