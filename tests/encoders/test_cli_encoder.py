"""``whichmodel encoder``: from labelled prompts to encoders that serve, and what is said when it does not work."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

import training.finetune
from router.cli import main, parser
from router.encoder import OnnxEncoder
from training.intents import read_intents
from training.labels import LabelledPrompts
from training.torch_encoder import SentenceEncoder
from training.tuning import FULL_TUNING, STATIC_TUNING, TuneSettings

Run = Callable[..., tuple[int, str, str]]
SHORT = ("--epochs", "2", "--learning-rate", "0.01")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``whichmodel encoder`` and return its exit code, stdout and stderr."""

    def once(*arguments: object) -> tuple[int, str, str]:
        code = main(["encoder", *map(str, arguments)])
        return code, *capsys.readouterr()

    return once


@pytest.fixture
def made(base: Path, tmp_path: Path, run: Run) -> Path:
    """An exported encoder."""
    assert run("export", base, "--out", tmp_path / "made", "--max-tokens", 24)[0] == 0
    return tmp_path / "made"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_from_labelled_prompts_to_both_tiers(
    base: Path, labelled_file: Path, prompts: LabelledPrompts, tmp_path: Path, run: Run
) -> None:
    more = tmp_path / "more.jsonl"
    more.write_text('{"text": "hello world"}\n{"text": "prove it"}\n')
    tuned, full, static = tmp_path / "tuned", tmp_path / "full", tmp_path / "static"

    code, out, err = run(
        "tune", labelled_file, "--base", base, "--out", tuned, "--max-tokens", 32, "--texts", more, "--seed", 5, *SHORT
    )
    assert (code, out) == (0, f"wrote {tuned}\n")
    assert f"tuning {base} on 60 prompts of 3 intents and 2 without, on c" in err
    assert re.search(
        r"\nepoch 2: intent loss \d\.\d{3}, likeness loss \d\.\d{4}, accuracy on held-out prompts [01]\.\d", err
    )
    record = json.loads((tuned / "tuning.json").read_text())
    assert record["base_sha256"] == sha256(base / "model.safetensors")
    assert record["sources"] == {"prompts.jsonl": sha256(labelled_file), "more.jsonl": sha256(more)}
    assert (record["n_prompts"], record["intents"]) == (62, ["code", "cooking", "travel"])
    assert (record["settings"]["n_epochs"], record["settings"]["learning_rate"]) == (2, 0.01)
    assert (record["settings"]["seed"], record["settings"]["held_out"], record["settings"]["keep"]) == (5, 0.1, 2.0)
    assert record["interrupted"] is False
    assert [epoch["number"] for epoch in record["epochs"]] == [1, 2]
    assert set(record["epochs"][0]) == {"number", "intent_loss", "keep_loss", "accuracy", "seconds"}

    code, out, _ = run("export", tuned, "--out", full, "--max-tokens", 32, "--texts", labelled_file)
    assert code == 0
    assert "fp32 against PyTorch on 60 prompts: cosine 1.000000 at least" in out and "int8 against PyTorch" in out
    assert out.endswith(f"wrote {full} (tuned-int8, 16 dimensions)\n")
    vector = SentenceEncoder(tuned).embed([OnnxEncoder.load(full).token_ids(prompts.texts[0])])[0]
    assert float(OnnxEncoder.load(full).encode(prompts.texts[0]).vector @ vector) > 0.98

    code, out, err = run("distill", "--base", tuned, "--out", static, "--dim", 8, "--labels", labelled_file, *SHORT)
    assert (code, out) == (0, f"wrote {static} (tuned-static-8, 8 dimensions)\n")
    assert "epoch 2: intent loss " in err

    for directory in (full, static):
        code, out, err = run("intents", directory, "--labels", labelled_file, "--test", labelled_file)
        assert (code, err) == (0, "")
        assert out.startswith(f"wrote {directory}/intents.json (3 intents)\n")
        right = re.search(r"\nright on (\d\.\d{3}) of 60 other prompts\n$", out)
        assert right is not None and float(right[1]) > 1 / 3
        model = read_intents(directory)
        assert model is not None and model.names == ("code", "cooking", "travel")
        assert model.encoder_id == OnnxEncoder.load(directory).id
        code, out, err = run("check", directory)
        assert (code, err) == (0, "")
        assert f"id         {model.encoder_id}\n" in out
        assert out.endswith("ok         the vectors are those it was made with\n")


def test_a_table_is_distilled_without_any_prompts_or_with_prompts_alone(
    base: Path, labelled_file: Path, tmp_path: Path, run: Run
) -> None:
    code, out, err = run("distill", "--base", base, "--out", tmp_path / "plain", "--dim", 8, "--name", "mine")
    assert (code, out, err) == (0, f"wrote {tmp_path / 'plain'} (mine, 8 dimensions)\n", "")
    code, _, err = run(
        "distill", "--base", base, "--out", tmp_path / "tuned", "--dim", 8, "--texts", labelled_file, *SHORT
    )
    assert code == 0 and "intent loss 0.000" in err and "accuracy" not in err


def test_preference_logs_tune_by_which_models_win(
    base: Path, prompts: LabelledPrompts, tmp_path: Path, run: Run
) -> None:
    """A log may be a folder, too; it has no SHA-256 of its own."""
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "log.jsonl"
    rows = [{"prompt": text, "scores": {"a": n % 2, "b": 0.5}} for n, text in enumerate(prompts.texts)]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for source, digest in ((log, sha256(log)), (tmp_path / "logs", None)):
        out = tmp_path / f"tuned-{source.name}"
        code, _, err = run("tune", source, "--wins", "--base", base, "--out", out, *SHORT, "--max-tokens", 40)
        assert code == 0 and "0 prompts of 0 intents and 60 without" in err
        record = json.loads((out / "tuning.json").read_text())
        assert (record["sources"], record["intents"]) == ({source.name: digest}, [])
        assert np.isfinite(record["epochs"][-1]["keep_loss"]) and record["epochs"][-1]["accuracy"] is None


def test_interrupted_tuning_keeps_what_was_learnt(
    base: Path, labelled_file: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = training.finetune._warm_up_and_down

    def until(step: int, steps: int) -> float:
        if step == 3:  # in the second epoch of two steps each
            raise KeyboardInterrupt
        return real(step, steps)

    monkeypatch.setattr(training.finetune, "_warm_up_and_down", until)
    tuned = tmp_path / "tuned"
    code, out, _ = run("tune", labelled_file, "--base", base, "--out", tuned, *SHORT, "--max-tokens", 40)
    assert (code, out) == (130, f"wrote {tuned} (interrupted: what was learnt until then)\n")
    record = json.loads((tuned / "tuning.json").read_text())
    assert record["interrupted"] is True and [epoch["number"] for epoch in record["epochs"]] == [1]
    before, after = (SentenceEncoder(one).embed([[3, 8, 4]]) for one in (base, tuned))
    assert not np.array_equal(before, after)


def test_an_interrupted_distillation_leaves_nothing(
    base: Path, labelled_file: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(step: int, steps: int) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(training.finetune, "_warm_up_and_down", stop)
    code, _, err = run("distill", "--base", base, "--out", tmp_path / "out", "--dim", 8, "--labels", labelled_file)
    assert (code, err) == (130, "whichmodel: interrupted; nothing was left half-written\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("noise", [1e-3, 1.0])
def test_check_tells_rounding_from_another_table(made: Path, run: Run, noise: float) -> None:
    model = onnx.load(made / "model.onnx")
    (positions,) = (one for one in model.graph.initializer if one.name == "positions")
    array = onnx.numpy_helper.to_array(positions)
    shifted = array + noise * np.random.default_rng(0).normal(size=array.shape).astype(np.float32) * array.std()
    positions.CopyFrom(onnx.numpy_helper.from_array(shifted.astype(np.float32), "positions"))
    onnx.save(model, made / "model.onnx")
    code, out, err = run("check", made)
    if noise < 1:
        assert (code, err) == (0, "") and "\nok         " in out
    else:
        assert code == 1 and "ok" not in out.split()
        assert f"whichmodel: {made}: its vectors are not those it was made with, a canary differs by " in err
        assert err.endswith("expected at most 0.05\n")


def test_check_needs_canaries(made: Path, run: Run) -> None:
    settings = json.loads((made / "encoder.json").read_text()) | {"canaries": []}
    (made / "encoder.json").write_text(json.dumps(settings))
    assert run("check", made) == (
        1,
        "",
        f"whichmodel: {made}: encoder.json holds no canaries, nothing to check\n",
    )


@pytest.mark.parametrize(
    "verb",
    [
        ("tune", "{file}", "--base", "{base}", "--out"),
        ("export", "{base}", "--out"),
        ("distill", "--base", "{base}", "--out"),
    ],
)
def test_an_out_that_exists_or_has_no_parent_is_refused_at_once(
    base: Path, labelled_file: Path, tmp_path: Path, run: Run, verb: Sequence[str]
) -> None:
    words = [word.format(file=labelled_file, base=base) for word in verb]
    assert run(*words, tmp_path) == (
        1,
        "",
        f"whichmodel: {tmp_path}: exists already, expected the name of a new directory\n",
    )
    lost = tmp_path / "no" / "where"
    assert run(*words, lost) == (1, "", f"whichmodel: {lost}: {lost.parent} is no directory\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["tune", "distill", "intents"])
def test_a_wrong_file_is_named_with_what_was_got_and_wanted(
    base: Path, made: Path, tmp_path: Path, run: Run, verb: str
) -> None:
    def complaint(path: Path) -> str:
        if verb == "tune":
            code, _, err = run("tune", path, "--base", base, "--out", tmp_path / "out", "--max-tokens", 40)
        elif verb == "distill":
            code, _, err = run("distill", "--base", base, "--out", tmp_path / "out", "--labels", path)
        else:
            code, _, err = run("intents", made, "--labels", path)
        assert code == 1 and err.count("\n") == 1 and not (tmp_path / "out").exists()
        return err

    (tmp_path / "a.jsonl").write_text('{"prompt": "sort", "topic": "x"}\n')
    assert "a.jsonl: no label column; got prompt, topic, expected one of intent, label," in complaint(
        tmp_path / "a.jsonl"
    )
    (tmp_path / "b.csv").write_text("query,intent\nsort,x\n")
    assert "b.csv: no prompt column; got query, intent, expected one of prompt, messages," in complaint(
        tmp_path / "b.csv"
    )
    (tmp_path / "c.txt").write_text("sort")
    assert "c.txt: cannot read files of type '.txt', expected one of .jsonl" in complaint(tmp_path / "c.txt")
    assert "d.jsonl: no such file" in complaint(tmp_path / "d.jsonl")


def test_wrong_bases_and_encoders_are_named(base: Path, labelled_file: Path, tmp_path: Path, run: Run) -> None:
    code, _, err = run("export", labelled_file.parent, "--out", tmp_path / "out")
    assert code == 1 and "not a sentence-transformers directory, missing config.json, tokenizer.json" in err
    code, _, err = run("export", base, "--out", tmp_path / "out", "--max-tokens", 128)
    assert code == 1 and "max_tokens must be 3..40 for this base, got 128" in err
    code, _, err = run("tune", labelled_file, "--base", base, "--out", tmp_path / "out")
    assert code == 1 and "max_tokens must be 3..40 for this base, got 128" in err
    code, _, err = run("distill", "--base", base, "--out", tmp_path / "out", "--dim", 17)
    assert code == 1 and "dim must be 1..16 for this base, got 17" in err
    code, _, err = run("check", base)
    assert code == 1 and "not an encoder directory, missing encoder.json, model.onnx" in err
    assert list(tmp_path.iterdir()) == []


def test_export_cuts_as_the_encoder_was_tuned(base: Path, labelled_file: Path, tmp_path: Path, run: Run) -> None:
    tuned, out = tmp_path / "tuned", tmp_path / "out"
    cut = ("--max-tokens", 24, "--truncation", "tail")
    assert run("tune", labelled_file, "--base", base, "--out", tuned, "--epochs", 1, *cut)[0] == 0
    assert run("export", tuned, "--out", out)[0] == 0
    settings = OnnxEncoder.load(out).settings
    assert (settings.max_tokens, settings.truncation) == (24, "tail")


def test_intents_that_cannot_be_written_are_an_error(made: Path, labelled_file: Path, run: Run) -> None:
    (made / "intents.json").mkdir()
    code, out, err = run("intents", made, "--labels", labelled_file)
    assert (code, out) == (1, "") and f"{made}/intents.json: exists already; --force replaces it" in err
    code, out, err = run("intents", made, "--labels", labelled_file, "--force")
    assert (code, out) == (1, "") and f"{made}/intents.json: cannot be written: Is a directory" in err


def test_without_the_extra_the_cure_is_named(
    base: Path, labelled_file: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.cli_encoder.importlib.util.find_spec", lambda name: None)
    for words in (("tune", labelled_file, "--base", base), ("distill", "--base", base), ("export", base)):
        code, _, err = run(*words, "--out", tmp_path / "out")
        assert code == 1 and "torch is missing; install the encoders extra: pip install 'whichmodel[encoders]'" in err


@pytest.mark.parametrize("verb", [(), ("tune",), ("export",), ("check",), ("tune", "x", "--out", "y", "--keep", "z")])
def test_wrong_usage_exits_with_2(verb: Sequence[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["encoder", *verb])
    assert exit_.value.code == 2


@pytest.mark.parametrize(("name", "dim"), [("static", 256), ("full", 384)])
def test_the_encoders_that_ship_are_known_by_name_and_pass_their_check(run: Run, name: str, dim: int) -> None:
    code, out, err = run("check", name)
    assert (code, err) == (0, "") and f"({name} tier, {dim} dimensions)" in out and "\nok         " in out


@pytest.mark.parametrize(("verb", "defaults"), [("tune", FULL_TUNING), ("distill", STATIC_TUNING)])
def test_the_defaults_of_the_command_line_are_those_of_the_library(verb: str, defaults: TuneSettings) -> None:
    args = parser().parse_args(["encoder", verb, *(["prompts.jsonl"] if verb == "tune" else []), "--out", "made"])
    asked = (args.epochs, args.learning_rate, args.keep, args.held_out, args.seed)
    assert asked == (defaults.n_epochs, defaults.learning_rate, defaults.keep, defaults.held_out, defaults.seed)
