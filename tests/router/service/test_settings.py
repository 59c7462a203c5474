"""Settings: defaults, the environment, and errors that name the key and the value."""

from pathlib import Path

import pytest

from router.errors import ConfigError
from router.service.auth import ApiKeys
from router.service.settings import Settings


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_environment({}) == Settings()
    assert Settings.from_environment({"WHICHMODEL_PORT": "", "WHICHMODEL_API_KEYS": ""}) == Settings()
    assert (Settings().host, Settings().max_body_bytes, bool(Settings().api_keys)) == ("127.0.0.1", 4_194_304, False)


def test_everything_can_be_set(tmp_path: Path) -> None:
    environ = {
        "WHICHMODEL_HOST": "::1",
        "WHICHMODEL_PORT": "0",
        "WHICHMODEL_MAX_BODY_BYTES": "65536",
        "WHICHMODEL_LATENCY_BUDGET_MS": "12.5",
        "WHICHMODEL_CHUNK_TIMEOUT_S": "1",
        "WHICHMODEL_API_KEYS": "one, two",
        "UNRELATED": "x",
    }
    keys = ApiKeys.from_lines(["one", "two"], "the test")
    assert Settings.from_environment(environ) == Settings("::1", 0, 65_536, 12.5, 1.0, keys)
    path = tmp_path / "keys"
    path.write_text("one\ntwo\n")
    assert Settings.from_environment({"WHICHMODEL_API_KEYS_FILE": str(path)}) == Settings(api_keys=keys)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("WHICHMODEL_PORT", "x"),
        ("WHICHMODEL_PORT", "80.5"),
        ("WHICHMODEL_PORT", "-1"),
        ("WHICHMODEL_PORT", "65536"),
        ("WHICHMODEL_PORT", "inf"),
        ("WHICHMODEL_MAX_BODY_BYTES", "0"),
        ("WHICHMODEL_LATENCY_BUDGET_MS", "nan"),
        ("WHICHMODEL_LATENCY_BUDGET_MS", "10001"),
        ("WHICHMODEL_CHUNK_TIMEOUT_S", "0"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(key: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_environment({key: value})
    assert key in str(caught.value)
    assert value in str(caught.value)


def test_keys_that_are_only_commas_are_refused() -> None:
    with pytest.raises(ConfigError, match="WHICHMODEL_API_KEYS holds no API key"):
        Settings.from_environment({"WHICHMODEL_API_KEYS": " , "})


def test_two_sources_of_keys_are_refused() -> None:
    with pytest.raises(ConfigError, match="both set"):
        Settings.from_environment({"WHICHMODEL_API_KEYS": "one", "WHICHMODEL_API_KEYS_FILE": "file"})


def test_ranges_hold_without_an_environment_too() -> None:
    with pytest.raises(ConfigError, match="port has the value 99999"):
        Settings(port=99_999)
