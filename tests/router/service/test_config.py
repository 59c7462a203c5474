"""The configuration of a server: file, environment and options in their order, and errors with file and line."""

import json
import os
from pathlib import Path

import pytest

from router.artifact import RouterArtifact
from router.cli import main
from router.errors import ConfigError
from router.policies import Binding, PolicyBook
from router.service.config import MAX_FILE_BYTES, misspelt_variables, read_config
from router.service.settings import SETTINGS, Settings
from router.types import Policy


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "whichmodel.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(folder: Path, text: str | bytes) -> str:
    """Return the error of a file, with the file's name alone for its path."""
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        read_config(path, {}, {})
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value).replace(str(path), path.name)


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "[server]\n", "\ufeff[server]\r\n[routing]\r\n"])
def test_an_empty_file_sets_nothing(tmp_path: Path, text: str) -> None:
    config = read_config(write(tmp_path, text), {}, {})
    assert (config.settings, dict(config.sources)) == (Settings(), {})


def test_each_layer_wins_over_the_one_below(tmp_path: Path) -> None:
    path = write(tmp_path, "[server]\nport = 1\nmax_backlog = 2\n\n[routing]\nlatency_budget_ms = 3\n")
    config = read_config(path, {"WHICHMODEL_MAX_BACKLOG": "4", "WHICHMODEL_PORT": "5"}, {"port": 6})
    assert (config.settings.port, config.settings.max_backlog, config.settings.latency_budget_ms) == (6, 4, 3.0)
    assert config.sources == {
        "port": "option --port",
        "max_backlog": "environment WHICHMODEL_MAX_BACKLOG",
        "latency_budget_ms": f"file {path}:6",
    }


def test_paths_in_the_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("a-key\n")
    text = f"[server]\nartifact = 'models/live'\napi_keys_file = '{tmp_path}/keys.txt'\n"
    settings = read_config(write(tmp_path, text), {}, {}).settings
    assert (settings.artifact, settings.api_keys_file) == (tmp_path / "models/live", tmp_path / "keys.txt")
    assert len(settings.api_keys.hashes) == 1


def test_keys_of_a_higher_layer_replace_those_below(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("a\nb\n")
    path = write(tmp_path, "[server]\napi_keys_file = 'keys.txt'\n")
    assert len(read_config(path, {}, {}).settings.api_keys.hashes) == 2
    environment = read_config(path, {"WHICHMODEL_API_KEYS": "CANARY"}, {})
    assert (environment.settings.api_keys_file, len(environment.settings.api_keys.hashes)) == (None, 1)
    assert "CANARY" not in environment.render() + repr(environment)
    option = read_config(None, {"WHICHMODEL_API_KEYS": "CANARY"}, {"api_keys_file": tmp_path / "keys.txt"})
    assert len(option.settings.api_keys.hashes) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nport = 'x'\n", "2: server.port has the value 'x': expected a whole number from 0 to 65,535"),
        ("[server]\nport = 8080.0\n", "2: server.port has the value 8080.0: expected a whole number from 0 to 65,535"),
        ("[server]\n\nport = true\n", "3: server.port has the value true: expected a whole number from 0 to 65,535"),
        ("[server]\nport = [1]\n", "2: server.port has an array: expected a whole number from 0 to 65,535"),
        ("[server.port]\nx = 1\n", "1: server.port has a table: expected a whole number from 0 to 65,535"),
        ("server.port = 70_000", "1: server.port has the value 70000: expected a whole number from 0 to 65,535"),
        ("[server]\nhost = ''\n", "2: server.host has the value '': expected a text without spaces"),
        ("[server]\nlog_format = 1\n", "2: server.log_format has the value 1: expected text or json"),
        ("[server]\nartifact = 1\n", "2: server.artifact has the value 1: expected a path"),
        (
            "[routing]\nlatency_budget_ms = nan\n",
            "2: routing.latency_budget_ms has the value nan: expected a number from 1 to 10,000 (ms)",
        ),
        (
            "# port\n[server]\nprot = 1\n",
            "3: unknown key 'prot' in [server]: did you mean port? expected one of "
            + ", ".join(one.name for one in SETTINGS if one.table == "server"),
        ),
        (
            "[routing]\nport = 1\n",
            "2: unknown key 'port' in [routing]: it belongs in [server]; expected one of latency_budget_ms, "
            "cache_entries, max_waiting, encoder_threads, encoder_nice, profiles, max_sessions, session_ttl_s",
        ),
        (
            "port = 1\n",
            "1: unknown table 'port': it belongs in [server]; expected one of server, routing, feedback, policies, "
            "bindings",
        ),
        (
            "[server]\nport = 1\n[sever]\n",
            "3: unknown table 'sever': did you mean server? expected one of server, routing, feedback, policies, "
            "bindings",
        ),
        ("[x]\n", "1: unknown table 'x': expected one of server, routing, feedback, policies, bindings"),
        ("server = 1\n", "1: server is a value: expected a table, [server]"),
        ("[[server]]\nport = 1\n", "1: server is a value: expected a table, [server]"),
        ("[server]\nport = \n", "2: not TOML, column 8: invalid value"),
        ("[server]\nport = 1\nport = 2\n", "3: not TOML, column 9: cannot overwrite a value"),
        ("[server\n", "1: not TOML, column 8: expected ']' at the end of a table declaration"),
        ("[server]\nhost = '''x", "2: not TOML: expected \"'''\""),
        (b"[server]\nhost = '\xff'\n", "2: byte 17 is not UTF-8: expected TOML, which is"),
        (b"\x7fELF\x00\x00", "1: not TOML, column 1: invalid statement"),
        ("a = " + "[" * 3_000, ": not TOML"),
        ("a = " + "9" * 5_000, ": not TOML"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_place(tmp_path: Path, text: str | bytes, message: str) -> None:
    refused = refusal(tmp_path, text)
    assert refused.startswith(f"whichmodel.toml:{message}") or (message[0] == ":" and message in refused)


@pytest.mark.parametrize(
    "text",
    [
        "[server]\napi_keys = ['CANARY']\n",
        "[server]\napi_key = 'CANARY'\n",
        "api_keys = 'CANARY'\n",
        "[api_keys]\nfirst = 'CANARY'\n",
        "[server]\napi_keys_file = ['CANARY']\n",
        "[server]\nsecret = 'CANARY'\n",
    ],
)
def test_keys_in_the_file_are_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    refused = refusal(tmp_path, text)
    assert "CANARY" not in refused
    if "_file" not in text and "secret" not in text:
        assert "no place for keys" in refused and "WHICHMODEL_API_KEYS" in refused and "api_keys_file" in refused


POLICIES = """[server]
api_keys_file = "keys.txt"

[policies]
default = "house"

[policies.house]
strategy = "cheap"

[policies.legal]
region = "eu"
require = [
  "tools",
]
max_cost_usd = 1
fallback = "mine"

[[bindings]]
policy = "legal"
key = "firm"

[[bindings]]
task = "contract review"
application = "mail"
policy = "legal"
"""


def test_policies_and_bindings_are_read(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("a-key name=firm\nanother\n")
    path = write(tmp_path, POLICIES)
    config = read_config(path, {}, {})
    book = config.settings.policies
    legal = Policy(region=("eu",), require=("tools",), max_cost_usd=1.0, fallback="mine", name="legal")
    assert book.policies == {"house": Policy(strategy="cheap", name="house"), "legal": legal}
    assert (book.default, book.bindings) == (
        "house",
        (Binding("legal", key="firm"), Binding("legal", task="contract review", application="mail")),
    )
    shown = [line.split("  ") for line in config.render().splitlines() if line.startswith(("pol", "bind", "API key "))]
    assert [[one.strip() for one in row if one] for row in shown] == [
        ["API key firm", "may nothing more", f"file {path}:2"],
        ["policies.house", 'strategy = "cheap"', f"file {path}:7"],
        [
            "policies.legal",
            'require = ["tools"], region = ["eu"], max_cost_usd = 1, fallback = "mine"',
            f"file {path}:10",
        ],
        ["policies.default", "house", f"file {path}:5"],
        ["bindings[0]", 'legal where key = "firm"', f"file {path}:18"],
        ["bindings[1]", 'legal where application = "mail" and task = "contract review"', f"file {path}:22"],
    ]


def test_keys_may_be_named_in_the_environment(tmp_path: Path) -> None:
    path = write(tmp_path, "[policies.legal]\n[[bindings]]\npolicy = 'legal'\nkey = 'firm'\n")
    config = read_config(path, {"WHICHMODEL_API_KEYS": "a-key name=firm may=prompts,b-key"}, {})
    assert config.settings.policies.bindings == (Binding("legal", key="firm"),)
    assert config.settings.api_keys.callers[0].sees_prompts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[policies.legal]\nregio = 'eu'\n",
            "2: unknown key 'regio' in [policies.legal]: did you mean region? expected one of candidates, exclude,",
        ),
        (
            "[policies.legal]\nmax_latency = 1\n",
            "2: unknown key 'max_latency' in [policies.legal]: did you mean max_latency_ms?",
        ),
        ("[policies.legal]\nport = 1\n", "2: unknown key 'port' in [policies.legal]: it belongs in [server];"),
        ("[policies.legal]\nname = 'x'\n", "2: unknown key 'name' in [policies.legal]: "),
        (
            "[policies.legal]\n\nmax_cost_usd = '1'\n",
            "3: policies.legal.max_cost_usd has the value '1': expected a valid number",
        ),
        (
            "[policies.legal]\nmax_cost_usd = -1\n",
            "2: policies.legal.max_cost_usd has the value -1: expected greater than or equal to 0",
        ),
        (
            "[policies.legal]\nmax_cost_usd = inf\n",
            "2: policies.legal.max_cost_usd has the value inf: expected a finite number",
        ),
        (
            "[policies.legal]\nmin_uptime = 99.9\n",
            "2: policies.legal.min_uptime has the value 99.9: expected less than or equal to 1",
        ),
        (
            "[policies.legal]\nstrategy = 'best'\n",
            "2: policies.legal.strategy has the value 'best': expected 'quality', 'balanced', 'cheap', 'fast' or 'priv",
        ),
        (
            "[policies.legal]\nlocal_only = 1\n",
            "2: policies.legal.local_only has the value 1: expected a valid boolean",
        ),
        (
            "[policies.legal]\ncandidates = 'a'\n",
            "2: policies.legal.candidates has the value 'a': expected a valid list",
        ),
        (
            "[policies.legal]\ncandidates = ['a', 5]\n",
            "2: policies.legal.candidates[1] has the value 5: expected a valid string",
        ),
        (
            "[policies.legal]\nregion = ['eu', '']\n",
            "2: policies.legal.region[1] has the value '': expected a text of at least 1 character",
        ),
        (
            "[policies.legal]\nregion = []\n",
            "2: policies.legal.region has an array: expected a valid string or at least 1 item",
        ),
        (
            "[policies.legal]\nregion = 2026-01-01\n",
            "2: policies.legal.region has the value datetime.date(2026, 1, 1): expected a valid string or a valid list",
        ),
        (
            "[policies.legal]\nstrategy = 'fast'\nwillingness_to_pay_usd = 1\n",
            "1: [policies.legal]: strategy and willingness_to_pay_usd exclude each other",
        ),
        ("[policies]\nlegal = 1\n", "2: policies.legal has the value 1: expected a table, [policies.legal]"),
        ("policies = 1\n", "1: policies is a value: expected tables, [policies.NAME]"),
        ("[policies.'a b']\n", "1: the name of [policies.a b] is none: expected 1 to 64 letters, digits"),
        ("[policies.request]\n", "1: the name of [policies.request] is none: "),
        (
            "[policies]\ndefault = 'legl'\n[policies.legal]\n",
            "2: policies.default has the value 'legl', which is no policy: did you mean legal? expected one of legal",
        ),
        (
            "[policies]\ndefault = 'legal'\n",
            "2: policies.default has the value 'legal', which is no policy: expected a table [policies.NAME] to be th",
        ),
        ("[policies.default]\nregion = 'eu'\n", "1: policies.default has a table, which is no policy: "),
        ("bindings = 1\n", "1: bindings is no array: expected tables, [[bindings]]"),
        ("[bindings]\npolicy = 'x'\n", "1: bindings is no array: expected tables, [[bindings]]"),
        ("bindings = [1]\n", "1: bindings[0] is no table: expected [[bindings]]"),
        (
            "[policies.legal]\n[[bindings]]\npolicy = 'legal'\nrole = 'x'\n[[bindings]]\nrole = 'y'\npolicy = 'lega'\n",
            "7: bindings[1].policy has the value 'lega', which is no policy: did you mean legal? expected one of legal",
        ),
        ("[[bindings]]\ntask = 'x'\n", "1: bindings[0] has no policy: expected policy = NAME"),
        (
            "[policies.legal]\n[[bindings]]\npolicy = 'legal'\n",
            "2: bindings[0] binds everybody: expected one of key, application, role, task; [policies] default = NAME",
        ),
        (
            "[policies.legal]\n[[bindings]]\npolicy = 'legal'\ntsk = 'x'\n",
            "4: unknown key 'tsk' in bindings[0]: did you mean task? expected",
        ),
        (
            "[policies.legal]\n[[bindings]]\npolicy = 'legal'\nrole = ''\n",
            "4: bindings[0].role has the value '': expected a text of 1 to 256 characters",
        ),
        (
            "[policies.legal]\n[[bindings]]\npolicy = 'legal'\nkey = 'CANARY'\n",
            "4: bindings[0].key is not the name of an API key: no key was given a name",
        ),
        (
            "[policies.legal]\n[[bindings]]\npolicy = 'legal'\nkey = ['CANARY']\n",
            "4: bindings[0].key has another value: expected a text of 1 to 256 characters",
        ),
        (
            "[policies.legal]\n" + "[[bindings]]\npolicy = 'legal'\ntask = 'x'\n" * 257,
            " 257 bindings: expected at most 256",
        ),
    ],
)
def test_a_wrong_policy_or_binding_is_one_line_that_names_the_place(tmp_path: Path, text: str, message: str) -> None:
    refused = refusal(tmp_path, text)
    assert refused.startswith(f"whichmodel.toml:{message}")
    assert "CANARY" not in refused


def test_a_binding_to_an_unknown_key_tells_the_known_names_and_not_what_it_says(tmp_path: Path) -> None:
    path = write(tmp_path, "[policies.legal]\n[[bindings]]\npolicy = 'legal'\nkey = 'CANARY'\n")
    with pytest.raises(ConfigError) as caught:
        read_config(path, {"WHICHMODEL_API_KEYS": "CANARY name=firm,other name=desk,third"}, {})
    assert str(caught.value) == f"{path}:4: bindings[0].key is not the name of an API key: expected one of firm, desk"
    with pytest.raises(ConfigError, match=r"bindings\[0\]\.key is not the name of an API key"):
        Settings(policies=PolicyBook({"legal": Policy()}, (Binding("legal", key="firm"),)))


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for path, what in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file")):
        with pytest.raises(ConfigError, match=f"{path}: the configuration cannot be read: {what}"):
            read_config(path, {}, {})
    assert "more than 65,536 bytes" in refusal(tmp_path, "#" * (MAX_FILE_BYTES + 1))


def test_a_file_of_keys_that_is_missing_is_named_with_where_it_was_named(tmp_path: Path) -> None:
    path = write(tmp_path, "[server]\napi_keys_file = 'keys.txt'\n")
    with pytest.raises(ConfigError) as caught:
        read_config(path, {}, {})
    assert str(caught.value).startswith(f"api_keys_file (file {path}:2): {tmp_path}/keys.txt: ")


def test_variables_that_are_nearly_settings_are_named() -> None:
    (line,) = misspelt_variables({"WHICHMODEL_PROT": "1", "WHICHMODEL_PORT": "2", "WHICHMODEL_DATA": "x", "HOME": "y"})
    assert line == "WHICHMODEL_PROT is no setting and is not read, did you mean WHICHMODEL_PORT?"


class TestCheckConfig:
    @pytest.fixture(autouse=True)
    def _bare_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in os.environ:
            if name.startswith("WHICHMODEL_"):
                monkeypatch.delenv(name)

    def test_it_prints_every_setting_with_its_source(self, tmp_path, monkeypatch, capsys) -> None:
        path = write(tmp_path, "[server]\nport = 1\n")
        monkeypatch.setenv("WHICHMODEL_API_KEYS", "CANARY-1,CANARY-2")
        monkeypatch.setenv("WHICHMODEL_PROT", "1")
        assert main(["serve", "--check-config", "--config", str(path), "--log-format", "json"]) == 0
        printed = capsys.readouterr()
        rows = {line.split("  ")[0]: line.split()[-2:] for line in printed.out.splitlines()}
        assert set(rows) >= {one.key for one in SETTINGS}
        assert rows["server.port"] == ["file", f"{path}:2"]
        assert rows["server.log_format"] == ["option", "--log-format"]
        assert rows["API keys"] == ["environment", "WHICHMODEL_API_KEYS"]
        assert rows["server.host"] == ["127.0.0.1", "default"]
        assert "CANARY" not in printed.out + printed.err
        assert "did you mean WHICHMODEL_PORT?" in printed.err

    def test_it_checks_the_artifact(self, artifact: RouterArtifact, tmp_path, capsys) -> None:
        written = artifact.write(tmp_path / "live")
        path = write(tmp_path, "[server]\nartifact = 'live'\n")
        assert main(["serve", "--check-config", "--config", str(path)]) == 0
        assert f"artifact {written.id} is whole, its verdict ROUTE" in capsys.readouterr().out
        (tmp_path / "live" / "static" / "vectors.npy").write_bytes(b"")
        assert main(["serve", "--check-config", "--config", str(path)]) == 1
        assert "static/vectors.npy" in capsys.readouterr().err

    def test_it_checks_policies_bindings_and_profiles(self, artifact: RouterArtifact, tmp_path, capsys) -> None:
        written = artifact.write(tmp_path / "live")
        (tmp_path / "keys.txt").write_text("CANARY name=firm may=prompts\n")
        profiles = tmp_path / "profiles.json"
        known = {"usd_per_mtok_in": 1, "usd_per_mtok_out": 2}
        profiles.write_text(json.dumps({written.models[0]: known, "another": known}))
        place = '[server]\nartifact = "live"\n[routing]\nprofiles = "profiles.json"\n'
        text = place + POLICIES.replace("[server]\n", "").replace('api_keys_file = "keys.txt"\n', "")
        path = write(tmp_path, text)
        keys = ["--api-keys-file", str(tmp_path / "keys.txt")]
        assert main(["serve", "--check-config", "--config", str(path), *keys]) == 0
        printed = capsys.readouterr().out
        assert "profiles of 2 models, with 2 endpoints; 1 of the artifact's 3 are among them" in printed
        assert "task 'contract review' is no intent of the artifact" in printed
        assert 'legal where key = "firm"' in printed and "may prompts" in printed and "CANARY" not in printed
        profiles.write_text('{"a": {"usd_per_mtok_in": "CHEAP"}}')
        assert main(["serve", "--check-config", "--config", str(path), *keys]) == 1
        assert str(profiles) in capsys.readouterr().err
        write(tmp_path, text.replace("region =", "regin ="))
        assert main(["serve", "--check-config", "--config", str(path), *keys]) == 1
        assert "did you mean region?" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("text", "options", "message"),
        [
            ("[server]\nport = 'x'\n", [], ":2: server.port has the value 'x': expected a whole number"),
            ("[server]\nhost = '0.0.0.0'\n", [], "without an API key"),
            ("[server]\nartifact = 'nowhere'\n", [], "nowhere: no such directory"),
            ("", ["nowhere"], "nowhere: no such directory"),
        ],
    )
    def test_what_would_not_start_is_one_line_and_exit_code_1(
        self, tmp_path, capsys, text: str, options: list[str], message: str
    ) -> None:
        assert main(["serve", "--check-config", "--config", str(write(tmp_path, text)), *options]) == 1
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1
        assert message in printed.err

    def test_serve_needs_an_artifact_from_somewhere(self, capsys) -> None:
        assert main(["serve"]) == 2
        assert "give an ARTIFACT" in capsys.readouterr().err

    @pytest.mark.parametrize("value", ["x", "65536", ""])
    def test_a_wrong_option_is_wrong_usage(self, value: str, capsys) -> None:
        with pytest.raises(SystemExit) as left:
            main(["serve", "nowhere", "--port", value])
        assert left.value.code == 2
        assert "argument --port: expected a whole number from 0 to 65,535, got" in capsys.readouterr().err
