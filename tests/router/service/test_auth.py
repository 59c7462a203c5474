"""Keys: read from lines or a file, checked against every hash; and which binds need one."""

import hashlib
import hmac
from pathlib import Path

import pytest

from router.errors import ConfigError
from router.service.auth import ANYBODY, RIGHTS, ApiKeys, Caller, check_bind, offered_key

KEYS = ApiKeys.from_lines(["first-key", "second-key"], "the test")


def test_each_key_is_accepted_and_nothing_else() -> None:
    assert KEYS.caller_with(b"first-key") == Caller("key1")
    assert KEYS.caller_with(b"second-key") == Caller("key2")
    for wrong in (b"", b"first-ke", b"first-key ", b"FIRST-KEY", b"\xff\x00", hashlib.sha256(b"first-key").digest()):
        assert KEYS.caller_with(wrong) is None


def test_every_hash_is_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(given: bytes, ours: bytes) -> bool:
        compared.append(ours)
        return given == ours

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert KEYS.caller_with(b"first-key") == Caller("key1")
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


class TestNames:
    LINES = (
        "# ours",
        "first-key name=legal may=prompts",
        "second-key",
        "third may=admin+prompts",
        "k name=a.b-C_9",
    )

    def test_a_line_may_give_a_name_and_rights(self) -> None:
        keys = ApiKeys.from_lines(self.LINES, "the test")
        assert keys.callers == (
            Caller("legal", frozenset({"prompts"})),
            Caller("key2"),
            Caller("key3", frozenset(RIGHTS)),
            Caller("a.b-C_9"),
        )
        assert keys.names == ("legal", "a.b-C_9")
        found = [keys.caller_with(key) for key in (b"first-key", b"second-key", b"third", b"k", b"legal")]
        assert found == [*keys.callers, None]
        assert [one.sees_prompts for one in keys.callers] == [True, False, True, False]

    def test_of_headers_it_tells_who_asks(self) -> None:
        keys = ApiKeys.from_lines(self.LINES, "the test")
        assert keys.caller_of([(b"x-api-key", b"first-key")]) == keys.callers[0]
        assert keys.caller_of([(b"x-api-key", b"legal")]) is None
        assert keys.caller_of([]) is None

    def test_where_no_key_is_needed_anybody_may_anything(self) -> None:
        assert ApiKeys().caller_of([(b"x-api-key", b"any")]) == ANYBODY == Caller("", frozenset(RIGHTS))

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("CANARY1 CANARY2", "key 2 is followed by something else than one name and its rights: expected KEY"),
            ("CANARY1 name=a name=b", "key 2 is followed by"),
            ("CANARY1 role=CANARY2", "key 2 is followed by"),
            ("CANARY1 name=", "key 2 has a name that is none: expected 1 to 64 letters"),
            ("CANARY1 name=CANARY/2", "key 2 has a name that is none"),
            ("CANARY1 name=" + "n" * 65, "key 2 has a name that is none"),
            ("CANARY1 name=key1", "and not key1, key2"),
            ("CANARY1 name=legal", "key 2 has the name legal, as another one has"),
            (
                "CANARY1 may=prompt",
                "key 2 may do something that is no right: did you mean prompts? expected",
            ),
            ("CANARY1 may=", "key 2 may do something that is no right: expected prompts or admin"),
            ("CANARY1 may=prompts,admin", "key 2 may do something that is no right: "),
            ("first-key name=again", "key 2 is the same as key 1"),
        ],
    )
    def test_what_is_wrong_is_said_without_the_key(self, line: str, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            ApiKeys.from_lines(["first-key name=legal", line], "the test")
        assert message in str(caught.value)
        assert "CANARY" not in str(caught.value)
