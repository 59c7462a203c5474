"""training/report_page.py and eval --report: what is on the page, and above all what is not."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from router.artifact import RouterArtifact
from router.cli import main
from router.errors import ConfigError
from training.comparisons import Comparison, PreferenceLog
from training.evaluate import judge_log
from training.report_page import PLOTS, check_directory, write_report

SECRET = "the launch code is 0000, said the harbour master of the castle near the volcano"
HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">'


class Page(HTMLParser):
    """Checks that tags are balanced and collects them, their attributes and the visible text."""

    VOID = ("meta", "img", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few resamples; and plots that are not drawn, unless a test asks for real ones."""
    monkeypatch.setattr("training.metrics.N_DRAWS", 40)
    monkeypatch.setattr("training.findings.N_DRAWS", 40)
    if "real_plots" not in request.fixturenames:
        monkeypatch.setattr("training.plots.png", lambda draw, data: b"\x89PNG of nothing")


@pytest.fixture
def real_plots() -> None:
    """Ask for plots that are drawn."""


def log_of(models: tuple[str, ...], n: int = 40) -> PreferenceLog:
    """Prompts of three kinds; every third row has the secret, and the chosen model's score goes up and down."""
    kinds = ("roast a {} duck", "async code {} deadlocks", f"{SECRET}, {{}}")
    rows = [
        Comparison(
            kinds[k % 3].format(k),
            scores={model: ((k * (j + 3)) % 7) / 6 for j, model in enumerate(models)},
            intent="x",
        )
        for k in range(n)
    ]
    return PreferenceLog(comparisons=rows)


def write(directory: Path, artifact: RouterArtifact, log: PreferenceLog, **options: bool) -> tuple[str, dict]:
    judged = judge_log(artifact, log)
    page = write_report(directory, artifact, judged, judged.report(), **options)
    assert page == directory / "index.html"
    return page.read_text("utf-8"), json.loads((directory / "report.json").read_text("utf-8"))


def test_the_page_stands_alone(artifact: RouterArtifact, tmp_path: Path) -> None:
    html, _ = write(tmp_path, artifact, log_of(artifact.models))
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "a", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "srcset", "style")]
        if tag == "img":
            assert str(attributes["src"]).startswith("data:image/png;base64,") and attributes["alt"]
    assert "http://" not in html and "https://" not in html and "url(" not in html and "@import" not in html
    assert "default-src 'none'" in html


def test_the_page_names_the_tier_that_was_judged(both_tiers: RouterArtifact, tmp_path: Path) -> None:
    for one in both_tiers.tiers:
        judged = judge_log(both_tiers.only(one.name), log_of(both_tiers.models))
        page = write_report(tmp_path, both_tiers, judged, judged.report())
        assert f"tier judged{one.name}, encoder {one.encoder.settings.name}" in Page(page.read_text("utf-8")).text


def test_plots_beside_are_the_plots_inside(real_plots: None, artifact: RouterArtifact, tmp_path: Path) -> None:
    html, _ = write(tmp_path, artifact, log_of(artifact.models))
    inside = [base64.b64decode(one) for one in re.findall(r'src="data:image/png;base64,([^"]+)"', html)]
    beside = {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}
    assert set(beside) == {"cost-quality.png", "intents.png", "reliability.png", "shares.png"}
    assert sorted(inside) == sorted(beside.values())


def test_numbers_and_page_agree(artifact: RouterArtifact, tmp_path: Path) -> None:
    html, numbers = write(tmp_path, artifact, log_of(artifact.models))
    text = Page(html).text
    report, found = numbers["report"], numbers["findings"]
    assert text.index(report["verdict"]["text"]) < text.index("Against fixed models")
    router = found["lines"][0]
    assert router["quality"]["value"] == pytest.approx(report["router"]["quality"])
    assert router["gain"]["value"] == pytest.approx(report["gain"]["mean"])
    assert router["gain"]["low"] == pytest.approx(report["gain"]["low"])
    assert f"{report['router']['quality']:.3f}" in text and f"{100 * report['gain']['mean']:+.1f}" in text
    assert f"{found['cost_quality']['aiq']['value']:.3f}" in text
    assert {one["model"]: one["share"]["value"] for one in found["shares"] if one["n"]} == report["shares"]


def test_prompts_are_kept_off_unless_asked_for(artifact: RouterArtifact, tmp_path: Path) -> None:
    log = log_of(artifact.models)
    html, _ = write(tmp_path / "a", artifact, log)
    _, numbers = write(tmp_path / "a", artifact, log)
    raw = (tmp_path / "a" / "report.json").read_text("utf-8")
    assert numbers["findings"]["best"] and numbers["findings"]["worst"]
    assert "launch code" not in html + raw and "duck" not in html + raw
    assert all(one["prompt_hash"] in html for one in numbers["findings"]["best"])
    shown, _ = write(tmp_path / "b", artifact, log, show_prompts=True)
    assert "launch code" in shown
    assert "launch code" not in (tmp_path / "b" / "report.json").read_text("utf-8")


def test_an_artifact_that_stores_prompts_shows_as_much_as_it_stores(artifact: RouterArtifact, tmp_path: Path) -> None:
    log = log_of(artifact.models)
    n_rows = artifact.n_rows
    html, _ = write(tmp_path, replace(artifact, prompts=("p" * 30,) * n_rows), log)
    assert SECRET[:29] in html and SECRET[:31] not in html
    html, _ = write(tmp_path, replace(artifact, prompts=("p" * 5000,) * n_rows), log)
    assert SECRET in html
    long = [replace(one, prompt=f"{one.prompt} {'z' * 500}") for one in log.comparisons]
    html, _ = write(tmp_path, artifact, PreferenceLog(comparisons=long), show_prompts=True)
    assert "z" * 50 in html and "z" * 200 not in html


def test_foreign_text_is_escaped(real_plots: None, artifact: RouterArtifact, tmp_path: Path) -> None:
    hostile = replace(
        artifact,
        models=(HOSTILE, *artifact.models[1:]),
        best_fixed=HOSTILE if artifact.best_fixed == artifact.models[0] else artifact.best_fixed,
        profiles={},
    )
    rows = [
        replace(one, prompt=f"{HOSTILE} \ud800 {one.prompt}", intent=f"{HOSTILE} {k % 2}")
        for k, one in enumerate(log_of(hostile.models).comparisons)
    ]
    html, _ = write(tmp_path, hostile, PreferenceLog(comparisons=rows), show_prompts=True)
    page = Page(html)
    assert HOSTILE in page.text and "<script" not in html
    assert not [attributes for tag, attributes in page.tags if "onerror" in attributes or tag == "script"]


def test_leaks_stand_beside_the_verdict(artifact: RouterArtifact, scores_log: PreferenceLog, tmp_path: Path) -> None:
    html, _ = write(tmp_path, artifact, scores_log)
    assert "Every prompt was trained on" in Page(html).text
    some = PreferenceLog(comparisons=[*scores_log.comparisons[:10], *log_of(artifact.models).comparisons])
    text = Page(write(tmp_path, artifact, some)[0]).text
    assert "were trained on, or nearly so" in text and "10 prompts are training rows" in text
    assert "nearly so" not in Page(write(tmp_path, artifact, log_of(artifact.models))[0]).text


def test_without_prices_there_is_no_curve_and_a_stale_one_goes(artifact: RouterArtifact, tmp_path: Path) -> None:
    log = log_of(artifact.models)
    write(tmp_path, artifact, log)
    assert (tmp_path / "cost-quality.png").exists()
    html, numbers = write(tmp_path, replace(artifact, profiles={}), log)
    assert not (tmp_path / "cost-quality.png").exists() and "AIQ" not in Page(html).text.split("How this was made")[0]
    assert numbers["findings"]["cost_quality"] is None and "USD" not in Page(html).text


def test_two_models(artifact: RouterArtifact, tmp_path: Path) -> None:
    html, numbers = write(tmp_path, artifact, log_of(artifact.models[:2]))
    pair, text = numbers["findings"]["two_models"], Page(html).text
    assert f"APGR (a coin: 0.5){pair['apgr']['value']:.3f}" in text
    assert f"CPT(80 %): % of calls to {pair['strong']}{100 * pair['cpt80']['value']:.1f}" in text
    assert set(PLOTS) - {"learning-curve.png"} == {path.name for path in tmp_path.glob("*.png")}


def test_every_number_of_the_choice_has_its_interval(artifact: RouterArtifact, tmp_path: Path) -> None:
    html, numbers = write(tmp_path / "a", artifact, log_of(artifact.models))
    _, two = write(tmp_path / "b", artifact, log_of(artifact.models[:2]))
    text, found = Page(html).text, numbers["findings"]
    measured = [line[key] for line in found["lines"] for key in ("quality", "gain", "cost_usd", "regret")]
    measured += [share["share"] for share in found["shares"]]
    measured += [found["cost_quality"][key] for key in ("aiq", "zero_router_aiq", "aiq_gain")]
    measured += [two["findings"]["two_models"][key] for key in ("apgr", "cpt50", "cpt80")]
    assert len(measured) == 6 * 4 + 3 + 3 + 3
    for one in measured:
        assert one["low"] is not None and one["low"] <= one["value"] <= one["high"]
    for share in found["shares"]:
        low, high = (100 * share["share"][end] for end in ("low", "high"))
        assert f"{share['model']}{share['n']}{100 * share['share']['value']:.1f} ({low:.1f} to {high:.1f})" in text


def with_curve(artifact: RouterArtifact, rows_needed: int | None, **details: object) -> RouterArtifact:
    points = [
        {"n_rows": n, "gain": {"mean": mean, "low": mean - 0.04, "high": mean + 0.04}}
        for n, mean in ((37, 0.0), (75, 0.01), (150, 0.025))
    ]
    written = {"learning_curve": points, "rows_needed": rows_needed, "margin": 0.01, **details}
    report = {**artifact.report, "n_prompts": 150, "details": written}
    return replace(artifact, tiers=(replace(artifact.best, report=report),))


def test_would_more_data_help(artifact: RouterArtifact, tmp_path: Path) -> None:
    log = log_of(artifact.models)
    html, numbers = write(tmp_path, with_curve(artifact, 790), log)
    text = Page(html).text
    assert "The verdict asks for about 790 rows, and there were 150: if the true gain is +2.5 points" in text
    assert "+2.5 (-1.5 to +6.5)" in text and (tmp_path / "learning-curve.png").exists()
    curve = numbers["findings"]["learning_curve"]
    assert curve["rows_needed"] == 790 and curve["projection"]["leaves_zero_at"] == 384
    assert "about 390 rows show it" in text
    enough, _ = write(tmp_path, with_curve(artifact, None), log)
    assert "The last doubling of the training rows, to 150, changed the gain by +1.5 points" in Page(enough).text
    few, _ = write(tmp_path, with_curve(artifact, 200), log)
    assert "The verdict asks for about 200 rows, and there were 150." in Page(few).text


def test_an_artifact_without_a_curve_has_no_such_section(artifact: RouterArtifact, tmp_path: Path) -> None:
    write(tmp_path, with_curve(artifact, 790), log_of(artifact.models))
    html, numbers = write(tmp_path, artifact, log_of(artifact.models))
    assert "Would more data help" not in html and numbers["findings"]["learning_curve"] is None
    assert not (tmp_path / "learning-curve.png").exists()


def test_battles(artifact: RouterArtifact, battles_log: PreferenceLog, tmp_path: Path) -> None:
    text = Page(write(tmp_path, artifact, battles_log)[0]).text
    assert "win rate against the logged opponents" in text and "P(a beats b)" in text
    assert "effective comparisons" in text and "regret" not in text


def test_a_handful_of_rows(artifact: RouterArtifact, tmp_path: Path) -> None:
    _, numbers = write(tmp_path, artifact, log_of(artifact.models, n=2))
    assert numbers["findings"]["lines"][0]["gain"]["low"] is None


def test_a_report_directory_that_cannot_be_is_refused(artifact: RouterArtifact, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ConfigError, match="is a file; expected a directory"):
        check_directory(file)
    (tmp_path / "report" / "index.html").mkdir(parents=True)
    with pytest.raises(ConfigError, match="cannot be written"):
        write(tmp_path / "report", artifact, log_of(artifact.models))


def test_the_command_line(
    real_plots: None, artifact: RouterArtifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact.write(tmp_path / "artifact")
    lines = [
        json.dumps({"prompt": one.prompt, "scores": dict(one.scores or {})})
        for one in log_of(artifact.models).comparisons
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    command = ["eval", str(tmp_path / "artifact"), str(tmp_path / "log.jsonl"), "--report", str(tmp_path / "out")]
    assert main([*command, "--json"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert f"wrote {tmp_path / 'out' / 'index.html'}" in out
    assert json.loads(out[-1]) == json.loads((tmp_path / "out" / "report.json").read_text())["report"]
    assert "launch code" not in (tmp_path / "out" / "index.html").read_text()
    assert main([*command, "--show-prompts"]) == 0
    assert "launch code" in (tmp_path / "out" / "index.html").read_text()
    missing = ["eval", str(tmp_path / "nowhere"), str(tmp_path / "log.jsonl"), "--report", str(tmp_path / "empty")]
    assert main(missing) == 1 and not (tmp_path / "empty").exists()
    (tmp_path / "taken").write_text("a file")
    assert main([*command[:-1], str(tmp_path / "taken")]) == 1
    assert "is a file; expected a directory" in capsys.readouterr().err
