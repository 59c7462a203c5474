"""training/intents.py: where the intents of a log's rows come from, up to the artifact and the command line."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from router.artifact import RouterArtifact, load_artifact
from router.cli import main
from router.encoder import ENCODER_FILES, OnnxEncoder, find_encoder
from router.errors import ConfigError, DataError, EncoderError
from router.estimate import to_quality
from router.intents import intent_standings
from router.router import Router
from training.build import train
from training.comparisons import PreferenceLog
from training.evidence import tabulate
from training.fit import fit_evidence
from training.intents import INTENTS_FILE, fit_intents, read_intents
from training.labels import LabelledPrompts
from training.sources import load

BEST = {"code": "coder-medium", "cooking": "chef-large", "travel": "guide-small"}
INTENTS = tuple(BEST)
SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "battles.jsonl"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The shipped encoder in a directory without an intent model."""
    (tmp_path / "bare").mkdir()
    for name in ENCODER_FILES:
        shutil.copy(find_encoder("static") / name, tmp_path / "bare" / name)
    return tmp_path / "bare"


@pytest.fixture
def modelled(bare: Path, tmp_path: Path, scores_log: PreferenceLog) -> Path:
    """The same, with an intent model of the tests' prompts, and of one intent that the log does not have."""
    home = shutil.copytree(bare, tmp_path / "modelled")
    texts = (*(one.prompt for one in scores_log.comparisons), "Sing me a lullaby")
    labels = (*(one.intent for one in scores_log.comparisons), "music")
    model = fit_intents(OnnxEncoder.load(home), LabelledPrompts(texts, labels))
    (home / INTENTS_FILE).write_text(json.dumps(model.to_json()))
    return home


@pytest.fixture
def unlabelled(scores_log: PreferenceLog) -> PreferenceLog:
    return PreferenceLog(comparisons=[replace(one, intent=None) for one in scores_log.comparisons])


def test_by_default_given_labels_come_first(modelled: Path, scores_log: PreferenceLog, small_grid: object) -> None:
    rows = [replace(one, intent=one.intent if n % 10 else None) for n, one in enumerate(scores_log.comparisons)]
    artifact, report = train(PreferenceLog(comparisons=rows), encoder=modelled)
    assert (artifact.intents, artifact.intents_from) == (INTENTS, "given")
    assert np.flatnonzero(artifact.best.evidence.intents < 0).tolist() == list(range(0, 150, 10))
    assert report.details["intents"] == {"from": "given", "n_intents": 3, "n_rows_without": 15}
    assert "3 (given), 15 rows without" in report.render()
    assert Router(artifact).describe()["intents_from"] == "given"


@pytest.mark.parametrize("loaded", [False, True])
def test_without_labels_the_model_beside_the_encoder_reads_them(
    modelled: Path, scores_log: PreferenceLog, unlabelled: PreferenceLog, small_grid: object, loaded: bool
) -> None:
    """A loaded encoder remembers its directory, so that it gives the same artifact as its path."""
    encoder = OnnxEncoder.load(modelled) if loaded else modelled
    artifact, report = train(unlabelled, encoder=encoder)
    assert (artifact.intents, artifact.intents_from) == (INTENTS, "model"), "without the intent that no row has"
    wanted = [INTENTS.index(one.intent or "") for one in scores_log.comparisons]
    assert np.mean(artifact.best.evidence.intents == wanted) > 0.9
    assert report.details["intents"] == {"from": "model", "n_intents": 3, "n_rows_without": 0}


def test_without_labels_and_model_they_are_discovered(
    bare: Path, unlabelled: PreferenceLog, small_grid: object, tmp_path: Path
) -> None:
    artifact, report = train(unlabelled, encoder=bare)
    assert artifact.intents_from == report.details["intents"]["from"] == "discovered"
    assert len(artifact.intents) == len(set(artifact.intents)) == 6 and (artifact.best.evidence.intents >= 0).all()
    forced, _ = train(unlabelled, encoder=bare, intents="discover")
    assert artifact.write(tmp_path / "1").id == forced.write(tmp_path / "2").id


@pytest.mark.parametrize(("wish", "source", "n_intents"), [("discover", "discovered", 6), ("model", "model", 3)])
def test_a_wish_goes_before_given_labels(
    modelled: Path, scores_log: PreferenceLog, small_grid: object, wish: str, source: str, n_intents: int
) -> None:
    artifact, _ = train(scores_log, encoder=modelled, intents=wish)
    assert (artifact.intents_from, len(artifact.intents)) == (source, n_intents)


def test_none_ignores_labels(scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object) -> None:
    artifact, report = train(scores_log, encoder=encoder, intents="none")
    assert (artifact.intents, artifact.intents_from, artifact.intent_quality.shape) == ((), "none", (0, 3))
    assert report.details["intents"] == {"from": "none", "n_intents": 0, "n_rows_without": 150}
    assert Router(artifact).route("a loop").intent is None


def test_what_cannot_be_had_is_refused_with_what_to_do(
    bare: Path, modelled: Path, unlabelled: PreferenceLog, encoder: OnnxEncoder
) -> None:
    with pytest.raises(ValueError, match="intents must be one of"):
        train(unlabelled, encoder=bare, intents="guess")
    with pytest.raises(DataError, match="no row of the log has one; leave it open, or discover them"):
        train(unlabelled, encoder=bare, intents="given")
    with pytest.raises(ConfigError, match=r"bare: no intents\.json.* or discover the intents"):
        train(unlabelled, encoder=bare, intents="model")
    with pytest.raises(ConfigError, match="an encoder that was not loaded from a directory: no"):
        train(unlabelled, encoder=OnnxEncoder(encoder.files, where="memory"), intents="model")
    raw = json.loads((modelled / INTENTS_FILE).read_text())
    (modelled / INTENTS_FILE).write_text(json.dumps(raw | {"encoder_id": "0" * 64}))
    for wish in (None, "model"):
        with pytest.raises(EncoderError, match=r"intents\.json: made with encoder 000000000000, not .* fit it again"):
            train(unlabelled, encoder=modelled, intents=wish)


def test_an_intent_model_survives_its_file(modelled: Path) -> None:
    model = read_intents(modelled)
    assert model is not None and set(model.names) == {*INTENTS, "music"}
    raw = json.loads((modelled / INTENTS_FILE).read_text())
    assert model.to_json() == raw
    for damage in (b"{", b"[]", json.dumps(raw | {"format_version": 9}).encode(), b'{"format_version": 1}'):
        (modelled / INTENTS_FILE).write_bytes(damage)
        with pytest.raises(EncoderError, match=r"intents\.json"):
            read_intents(modelled)


@pytest.mark.parametrize("kind", ["scores", "battles"])
@pytest.mark.parametrize("as_prior", [False, True])
def test_quality_per_intent_does_not_depend_on_the_prior_that_was_chosen(
    scores_log: PreferenceLog,
    battles_log: PreferenceLog,
    encoder: OnnxEncoder,
    small_grid: Callable[..., None],
    tmp_path: Path,
    kind: str,
    as_prior: bool,
) -> None:
    small_grid(INTENT_PRIORS=(as_prior,))
    rows = scores_log.comparisons if kind == "scores" else battles_log.comparisons
    log = PreferenceLog(
        comparisons=[
            replace(one, intent=labelled.intent) for one, labelled in zip(rows, scores_log.comparisons, strict=True)
        ]
    )
    train(log, encoder=encoder)[0].write(tmp_path / "v1")
    artifact = load_artifact(tmp_path / "v1")
    priors = fit_evidence(tabulate(log), np.ones(150, dtype=bool), use_intents=True).intent_priors
    np.testing.assert_array_equal(artifact.intent_quality, to_quality(priors, 0 * priors, kind)[0])
    assert {one.intent: one.best for one in intent_standings(artifact)} == BEST


def with_neighbors(artifact: RouterArtifact, n_neighbors: int) -> RouterArtifact:
    settings = replace(artifact.best.settings, n_neighbors=n_neighbors)
    return replace(artifact, tiers=(replace(artifact.best, settings=settings),))


def test_a_decision_says_how_many_of_its_neighbours_have_the_intent(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object
) -> None:
    artifact, _ = train(scores_log, encoder=encoder)
    prompt = scores_log.comparisons[0].prompt
    all_rows = with_neighbors(artifact, 150)
    intent = Router(all_rows).route(prompt).intent
    assert intent is not None and (intent.label, intent.neighbor_share) == ("code", pytest.approx(1 / 3))
    near = Router(with_neighbors(artifact, 3)).route(prompt).intent
    assert near is not None and near.neighbor_share == 1.0 and 0 < near.confidence < 1
    out = Router(all_rows).route(prompt).to_json()["intent"]
    assert out == {"label": "code", "confidence": round(intent.confidence, 4), "neighbor_share": 0.3333}


@pytest.mark.parametrize("wish", [None, "discover", "model", "none"])
def test_the_sample_without_its_labels(
    bare: Path,
    tmp_path: Path,
    small_grid: object,
    capsys: pytest.CaptureFixture[str],
    wish: str | None,
) -> None:
    """The command line, end to end, on battles: train, show, intents."""
    if wish == "model":
        log = load(SAMPLE)
        table = tabulate(log)
        labels = tuple(table.intent_names[code] for code in table.intents)
        model = fit_intents(OnnxEncoder.load(bare), LabelledPrompts(table.texts, labels))
        (bare / INTENTS_FILE).write_text(json.dumps(model.to_json()))
    rows = [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        del row["intent"]
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    options = [] if wish is None else ["--intents", wish]
    assert (
        main(["train", str(tmp_path / "log.jsonl"), "--encoder", str(bare), "--out", str(tmp_path / "v1"), *options])
        == 0
    )
    source = {None: "discovered", "discover": "discovered"}.get(wish, wish)
    capsys.readouterr()
    assert main(["show", str(tmp_path / "v1")]) == 0
    where = {
        "discovered": "(discovered: clusters of the log's prompts, named by their own words)",
        "model": "(read by the intent model beside the encoder)",
        "none": "(the artifact has none; train with --intents to get some)",
    }[source]
    assert next(line for line in capsys.readouterr().out.splitlines() if line.startswith("intents")).endswith(where)
    assert main(["intents", str(tmp_path / "v1"), "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["intents_from"] == source and len(out["intents"]) == {"discovered": 13, "model": 14, "none": 0}[source]
    counts = [one["n_rows"] for one in out["intents"]]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) + out["n_rows_without"] == len(tabulate(load(tmp_path / "log.jsonl")))
    if wish == "model":
        best = {one["intent"]: one["best"] for one in out["intents"]}
        assert (best["code_debugging"], best["translation"]) == ("coder-medium", "polyglot-medium")
        assert Counter(best.values())["general-large"] < len(best)


def test_the_command_line_passes_errors_on(
    bare: Path, unlabelled: PreferenceLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": one.prompt, "scores": dict(one.scores or {})} for one in unlabelled.comparisons]
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    for wish, told in (("given", "no row of the log has one"), ("model", "no intents.json")):
        options = ["--out", str(tmp_path / "v1"), "--encoder", str(bare), "--intents", wish]
        assert main(["train", str(tmp_path / "log.jsonl"), *options]) == 1
        assert told in capsys.readouterr().err and not (tmp_path / "v1").exists()
