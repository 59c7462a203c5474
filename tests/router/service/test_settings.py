"""Settings: the table, defaults, the environment, and errors that name the key, the value and what was expected."""

from dataclasses import fields
from pathlib import Path

import pytest

from router.errors import ConfigError
from router.service.auth import ApiKeys
from router.service.settings import SETTINGS, Settings

KEYS = ApiKeys.from_lines(["one", "two"], "the test")


def test_the_table_has_every_field_but_the_keys() -> None:
    assert {one.name for one in SETTINGS} == {one.name for one in fields(Settings)} - {"api_keys", "policies"}
    assert {one.table for one in SETTINGS} == {"server", "routing", "feedback"}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda one: one.name)
def test_every_row_is_whole(setting) -> None:
    assert setting.help and "\n" not in setting.help and "%" not in setting.help
    assert setting.checked(setting.default, "it") == setting.default
    if setting.kind in (int, float):
        assert setting.low <= setting.default <= setting.high < float("inf")
        assert type(setting.default) is setting.kind
    if setting.kind is str and setting.choices:
        assert setting.default in setting.choices


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_environment({}) == Settings()
    assert Settings.from_environment({"WHICHMODEL_PORT": "", "WHICHMODEL_API_KEYS": ""}) == Settings()
    assert (Settings().host, Settings().max_body_bytes, bool(Settings().api_keys)) == ("127.0.0.1", 4_194_304, False)


def test_everything_can_be_set() -> None:
    environ = {
        "WHICHMODEL_HOST": "::1",
        "WHICHMODEL_PORT": " 0 ",
        "WHICHMODEL_ARTIFACT": "models/live",
        "WHICHMODEL_MAX_BODY_BYTES": "65536",
        "WHICHMODEL_CHUNK_TIMEOUT_S": "1",
        "WHICHMODEL_MAX_BACKLOG": "1",
        "WHICHMODEL_LOG_FORMAT": "JSON",
        "WHICHMODEL_LOG_LEVEL": "Warning",
        "WHICHMODEL_LATENCY_BUDGET_MS": "12.5",
        "WHICHMODEL_CACHE_ENTRIES": "0",
        "WHICHMODEL_MAX_WAITING": "7",
        "WHICHMODEL_ENCODER_THREADS": "3",
        "WHICHMODEL_ENCODER_NICE": "19",
        "WHICHMODEL_LOG_DECISIONS": "False",
        "WHICHMODEL_PROFILES": "profiles.yaml",
        "WHICHMODEL_MAX_SESSIONS": "0",
        "WHICHMODEL_SESSION_TTL_S": "60",
        "WHICHMODEL_FEEDBACK_STORE": "feedback.db",
        "WHICHMODEL_FEEDBACK_KEEP_DECISIONS": "Asked",
        "WHICHMODEL_FEEDBACK_KEEP_PROMPTS": "true",
        "WHICHMODEL_FEEDBACK_TTL_S": "3600",
        "WHICHMODEL_FEEDBACK_ONLY_OWN": "true",
        "WHICHMODEL_FEEDBACK_MAX_PENDING": "1",
        "WHICHMODEL_FEEDBACK_MAX_BYTES": "1048576",
        "WHICHMODEL_FEEDBACK_RETENTION_DAYS": "0.5",
        "WHICHMODEL_API_KEYS": "one, two",
        "UNRELATED": "x",
    }
    assert set(environ) >= {one.variable for one in SETTINGS} - {"WHICHMODEL_API_KEYS_FILE"}
    assert Settings.from_environment(environ) == Settings(
        host="::1",
        port=0,
        artifact=Path("models/live"),
        max_body_bytes=65_536,
        chunk_timeout_s=1.0,
        max_backlog=1,
        log_format="json",
        log_level="warning",
        latency_budget_ms=12.5,
        cache_entries=0,
        max_waiting=7,
        encoder_threads=3,
        encoder_nice=19,
        log_decisions=False,
        profiles=Path("profiles.yaml"),
        max_sessions=0,
        session_ttl_s=60.0,
        feedback_store=Path("feedback.db"),
        feedback_keep_decisions="asked",
        feedback_keep_prompts=True,
        feedback_ttl_s=3600.0,
        feedback_only_own=True,
        feedback_max_pending=1,
        feedback_max_bytes=2**20,
        feedback_retention_days=0.5,
        api_keys=KEYS,
    )


def test_a_file_of_keys_is_read_however_it_was_named(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\none\ntwo\n")
    assert Settings.from_environment({"WHICHMODEL_API_KEYS_FILE": str(path)}).api_keys == KEYS
    assert Settings(api_keys_file=path).api_keys == KEYS
    with pytest.raises(ConfigError, match="cannot be read"):
        Settings(api_keys_file=tmp_path / "none")


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("WHICHMODEL_PORT", "x", "a whole number from 0 to 65,535"),
        ("WHICHMODEL_PORT", "80.5", "a whole number"),
        ("WHICHMODEL_PORT", "-1", "from 0 to 65,535"),
        ("WHICHMODEL_PORT", "65536", "from 0 to 65,535"),
        ("WHICHMODEL_PORT", "inf", "a whole number"),
        ("WHICHMODEL_PORT", "tcp://10.0.0.1:8080", "a whole number"),
        ("WHICHMODEL_MAX_BODY_BYTES", "0", "from 1,024 to 67,108,864 (bytes)"),
        ("WHICHMODEL_LATENCY_BUDGET_MS", "nan", "a number from 1 to 10,000 (ms)"),
        ("WHICHMODEL_LATENCY_BUDGET_MS", "10001", "from 1 to 10,000"),
        ("WHICHMODEL_CHUNK_TIMEOUT_S", "0", "from 0.01 to 600 (s)"),
        ("WHICHMODEL_MAX_BACKLOG", "0", "from 1 to 100,000"),
        ("WHICHMODEL_CACHE_ENTRIES", "1000001", "from 0 to 1,000,000"),
        ("WHICHMODEL_ENCODER_NICE", "20", "from 0 to 19"),
        ("WHICHMODEL_LOG_FORMAT", "xml", "text or json"),
        ("WHICHMODEL_LOG_LEVEL", "loud", "debug or info or warning or error"),
        ("WHICHMODEL_HOST", "a b", "a text without spaces"),
        ("WHICHMODEL_LOG_DECISIONS", "yes", "true or false"),
        ("WHICHMODEL_MAX_SESSIONS", "-1", "from 0 to 10,000,000 (sessions)"),
        ("WHICHMODEL_SESSION_TTL_S", "0.5", "from 1 to 604,800 (s)"),
        ("WHICHMODEL_FEEDBACK_KEEP_DECISIONS", "some", "all or asked or none"),
        ("WHICHMODEL_FEEDBACK_MAX_BYTES", "1000", "from 1,048,576 to 70,368,744,177,664 (bytes)"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(key: str, value: str, wanted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_environment({key: value})
    assert str(caught.value).startswith(f"{key} has the value {value!r}: expected ")
    assert wanted in str(caught.value)


def test_a_long_wrong_value_is_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_environment({"WHICHMODEL_PORT": "9" * 100_000})
    assert len(str(caught.value)) < 200


def test_keys_that_are_only_commas_are_refused() -> None:
    with pytest.raises(ConfigError, match="WHICHMODEL_API_KEYS holds no API key"):
        Settings.from_environment({"WHICHMODEL_API_KEYS": " , "})


def test_two_sources_of_keys_are_refused() -> None:
    with pytest.raises(ConfigError, match="both set"):
        Settings.from_environment({"WHICHMODEL_API_KEYS": "one", "WHICHMODEL_API_KEYS_FILE": "file"})


@pytest.mark.parametrize(
    ("name", "value"), [("port", 99_999), ("port", True), ("port", 8080.0), ("host", ""), ("log_decisions", 1)]
)
def test_ranges_and_types_hold_without_an_environment_too(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{name} has the value"):
        Settings(**{name: value})


def test_whole_numbers_are_numbers() -> None:
    assert isinstance(Settings(latency_budget_ms=20).latency_budget_ms, float)
