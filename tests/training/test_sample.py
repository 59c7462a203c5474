"""data/sample: what the shipped log promises, and the demo's way of talking to the server."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from router.encoder import OnnxEncoder, embed
from router.profiles import read_profiles
from router.prompt import fold_messages
from training import load, train
from training.comparisons import PreferenceLog
from training.cost import learned_profiles
from training.evidence import tabulate

SAMPLE = Path(__file__).parents[2] / "data" / "sample"
MAX_COSINE = 0.9


def script(name: str) -> ModuleType:
    """Import one of the sample's scripts, which are in no package."""
    spec = importlib.util.spec_from_file_location(name, SAMPLE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def make_sample() -> ModuleType:
    return script("make_sample")


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    return script("demo")


@pytest.fixture(scope="module")
def log() -> PreferenceLog:
    return load(SAMPLE / "battles.jsonl")


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [json.loads(line) for line in (SAMPLE / "battles.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def texts(log: PreferenceLog) -> list[str]:
    return list(dict.fromkeys(one.prompt for one in log.comparisons))


def test_every_row_is_read(log, rows):
    assert len(log) == len(rows) and log.refusals == [] and log.notes == {}


def test_rule_gives_the_shipped_bytes(make_sample):
    assert make_sample.render(make_sample.make_battles()) == (SAMPLE / "battles.jsonl").read_bytes()


def test_sizes(log, make_sample):
    assert len(log) >= 600
    assert len({one.intent for one in log.comparisons}) >= 12
    assert log.models == sorted(make_sample.MODELS) and len(log.models) == 5
    users = Counter(one.user for one in log.comparisons)
    assert max(users.values()) <= 0.1 * len(log) and None not in users


def test_shares_of_multi_turn_and_of_other_languages(rows, make_sample):
    assert np.mean(["messages" in one for one in rows]) >= 0.1
    assert np.mean([one["language"] != "en" for one in make_sample.read_prompts()]) >= 0.05


def test_only_the_planted_prompts_are_near_duplicates(make_sample, texts):
    prompts = make_sample.read_prompts()
    planted = make_sample.plant_duplicates(prompts, make_sample.Draw(make_sample.SEED))
    vectors = embed(OnnxEncoder.load("static"), texts)
    alike = np.argwhere(np.triu(vectors @ vectors.T, k=1) > MAX_COSINE)
    found = {frozenset((texts[a], texts[b])) for a, b in alike}
    assert len(planted) == 20
    assert found == {frozenset((original["prompt"], copy["prompt"])) for original, copy in planted}


def test_written_prompts_are_all_in_the_log_once(make_sample, texts):
    written = [one.get("prompt") or fold_messages(one["messages"]) for one in make_sample.read_prompts()]
    assert len(set(written)) == len(written) == len(texts) - make_sample.N_DUPLICATES
    assert set(written) < set(texts)


def test_no_model_is_best_everywhere(make_sample):
    strengths = np.array(list(make_sample.STRENGTHS.values()))
    assert set(strengths.argmax(axis=1)) == set(range(len(make_sample.MODELS)))
    assert make_sample.MODELS[strengths.mean(axis=0).argmax()] == "general-large"


def test_every_model_has_a_price_and_every_call_a_cost(log):
    profiles = read_profiles(SAMPLE / "models.yaml")
    assert set(profiles) == set(log.models)
    for one in log.comparisons:
        assert set(one.costs_usd) == {one.model_a, one.model_b} and min(one.costs_usd.values()) > 0
    means = {
        name: np.mean([one.costs_usd[name] for one in log.comparisons if name in one.costs_usd]) for name in log.models
    }
    assert max(means, key=means.get) == "general-large" and min(means, key=means.get) == "small-fast"


def test_lengths_are_found_again_in_the_costs(log):
    given = read_profiles(SAMPLE / "models.yaml")
    learned = learned_profiles(tabulate(log), given)
    for name, one in given.items():
        assert learned[name].mean_output_tokens == pytest.approx(one.mean_output_tokens, rel=0.1)


def test_readme_shows_the_strengths_and_counts(make_sample, log):
    readme = (SAMPLE / "README.md").read_text(encoding="utf-8")
    assert make_sample.strengths_table() in readme
    assert f"{len(log):,} battles" in readme
    assert f"{len(make_sample.read_prompts())} prompts" in readme


def test_routing_is_worth_it_on_the_sample(log):
    _, report = train(log, seed=0, profiles=read_profiles(SAMPLE / "models.yaml"))
    assert report.verdict.label == "ROUTE"
    assert report.best_fixed == "general-large"
    assert report.router.cost_usd < report.fixed.cost_usd


@pytest.fixture
def started():
    """Start Python programs that stand for the server, and end them."""
    running = []

    def start(program: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return running[-1]

    yield start
    for one in running:
        one.kill()
        one.wait()
        one.stdout.close()


def test_demo_reads_the_url_from_the_first_line_that_has_one(demo, started):
    program = "print('loading'); print('whichmodel serves 1d47 at http://127.0.0.1:4711: ROUTE.')"
    assert demo.wait_for_url(started(program)) == "http://127.0.0.1:4711"


def test_demo_says_why_the_server_did_not_start(demo, started):
    with pytest.raises(demo.DemoError, match="did not start; it said: whichmodel: no such artifact"):
        demo.wait_for_url(started("print('whichmodel: no such artifact')"))


def test_demo_without_the_command_says_how_to_install(demo, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "COMMAND", tmp_path / "whichmodel")
    monkeypatch.setattr(sys, "argv", ["demo.py"])
    assert demo.main() == 1
    assert "install the project first" in capsys.readouterr().err
