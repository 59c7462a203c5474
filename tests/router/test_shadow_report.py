"""The file of a shadow's decisions, and what is told from it: agreement, expectations, what feedback found."""

import json
import os
import random
import stat
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from router.cli import main
from router.errors import DataError
from router.feedback.events import Battle, FeedbackEvent, Outcome, Score
from router.feedback.store import StoredEvent
from router.shadow_log import N_FILES, ShadowLog, ShadowRecord, Side, files_of, read_shadow
from router.shadow_report import MIN_INTERVAL, Mean, render, shadow_report

SERVED = Side("aaaa", "small", "eu", 0.6, 0.001, "static", "best")
SHADOW = Side("bbbb", "large", "us", 0.7, 0.004, "static", "best")
RECORD = ShadowRecord(
    time_s=1_000.0,
    decision_id="one",
    prompt_hash="0" * 32,
    intent="code",
    policy=None,
    propensity=1.0,
    explore_share=0.0,
    served=SERVED,
    shadow=SHADOW,
    drawable=True,
    served_quality=0.55,
    served_cost_usd=0.0012,
)


def record(number: int, *, agrees: bool = False, **other: Any) -> ShadowRecord:
    shadow = replace(SHADOW, model="small", quality=0.55) if agrees else SHADOW
    return replace(RECORD, **{"decision_id": f"id-{number}", "time_s": 1_000.0 + number, "shadow": shadow, **other})


def event(number: int, outcome: Outcome) -> StoredEvent:
    return StoredEvent(
        number, FeedbackEvent(1.0, "judge", outcome, "0" * 32, decision_id=f"id-{number}", artifact_id="aaaa")
    )


class TestTheFile:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        records = [record(1), record(2, agrees=True), record(3, shadow=None, problem="policy", intent=None)]
        log = ShadowLog(tmp_path / "shadow.jsonl", 2**20)
        for one in records:
            log.write(one)
        log.close()
        assert list(read_shadow(tmp_path / "shadow.jsonl")) == records
        assert stat.S_IMODE((tmp_path / "shadow.jsonl").stat().st_mode) == 0o600

    def test_another_start_goes_on_behind(self, tmp_path: Path) -> None:
        path = tmp_path / "shadow.jsonl"
        for number in range(3):
            log = ShadowLog(path, 2**20)
            log.write(record(number))
            log.close()
        assert list(read_shadow(path)) == [record(number) for number in range(3)]

    def test_a_line_that_a_crash_cut_takes_no_other_with_it(self, tmp_path: Path) -> None:
        path = tmp_path / "shadow.jsonl"
        whole = json.dumps(record(1).to_json()) + "\n"
        path.write_text(whole + whole[:40])
        log = ShadowLog(path, 2**20)
        log.write(record(2))
        log.close()
        assert list(read_shadow(path)) == [record(1), None, record(2)]

    @hypothesis_settings(deadline=None, max_examples=30)
    @given(st.integers(1, 200), st.integers(1_000, 60_000))
    def test_it_is_bounded_and_keeps_the_newest(self, n: int, max_bytes: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "shadow.jsonl"
            log = ShadowLog(path, max_bytes)
            for number in range(n):
                log.write(record(number))
            log.close()
            n_bytes = sum(one.stat().st_size for one in files_of(path) if one.exists())
            line = len(json.dumps(record(n).to_json())) + 1
            assert n_bytes <= max(max_bytes, N_FILES * line)
            assert set(os.listdir(folder)) <= {one.name for one in files_of(path)}
            kept = [one.decision_id for one in read_shadow(path) if one is not None]
            assert kept == [f"id-{number}" for number in range(n - len(kept), n)]
            assert len(kept) >= min(n, (N_FILES - 1) * max(1, max_bytes // N_FILES // line))

    def test_what_cannot_be_written_is_an_error_and_tried_anew(self, tmp_path: Path) -> None:
        path = tmp_path / "no" / "shadow.jsonl"
        log = ShadowLog(path, 2**20)
        with pytest.raises(OSError):
            log.write(record(1))
        path.parent.mkdir()
        log.write(record(2))
        log.close()
        assert list(read_shadow(path)) == [record(2)]

    def test_a_file_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"nothing\.jsonl: cannot be read: No such file"):
            list(read_shadow(tmp_path / "nothing.jsonl"))

    @hypothesis_settings(deadline=None)
    @given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists) | st.binary())
    def test_hostile_lines_are_damaged_lines(self, line: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "shadow.jsonl"
            raw = line.replace(b"\n", b"") if isinstance(line, bytes) else json.dumps(line).encode()
            path.write_bytes(raw + b"\n" + json.dumps({**RECORD.to_json(), "served": str(line)}).encode())
            assert set(read_shadow(path)) <= {None}
            render(shadow_report(read_shadow(path)))

    @pytest.mark.parametrize("name", ["time_s", "propensity", "explore_share", "served", "shadow"])
    def test_a_field_that_is_missing_or_no_number_damages_its_line(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / "shadow.jsonl"
        less = {key: value for key, value in RECORD.to_json().items() if key != name}
        path.write_text(json.dumps(less) + "\n" + json.dumps({**RECORD.to_json(), name: ["x"]}))
        assert list(read_shadow(path)) == [None, None]


class TestAgreement:
    def test_counts_pairs_and_expectations(self) -> None:
        records = [record(n, agrees=n % 4 != 0, intent="code" if n % 2 else "travel") for n in range(80)]
        report = shadow_report(records)
        assert (report.n, report.served_id, report.shadow_id) == (80, "aaaa", "bbbb")
        assert report.agreement.value == 0.75 and report.agreement.n == 80
        assert [(one.served, one.shadow, one.n) for one in report.pairs] == [("small", "large", 20)]
        expected = report.expected
        assert expected.served_quality.value == pytest.approx(0.6)
        assert expected.shadow_quality.value == pytest.approx(0.75 * 0.55 + 0.25 * 0.7)
        assert expected.by_shadow_difference.value == pytest.approx(0.25 * 0.15)
        assert expected.cost_difference_usd.value == pytest.approx(0.003)
        by_intent = {one.intent: one for one in report.intents}
        assert by_intent["code"].agreement.value == 1.0 and by_intent["code"].most is None
        assert by_intent["travel"].agreement.value == 0.5 and by_intent["travel"].most is not None
        assert "agreement        75.0 % (6" in render(report)
        assert json.loads(json.dumps(report.to_json(), allow_nan=False))["n"] == 80

    def test_what_was_drawn_at_random_says_nothing_of_agreement(self) -> None:
        drawn = replace(SERVED, reason="explore")
        report = shadow_report(
            [record(n, agrees=True) for n in range(30)] + [record(n, served=drawn) for n in range(9)]
        )
        assert (report.agreement.value, report.agreement.n, report.n_explored) == (1.0, 30, 9)

    def test_other_artifacts_and_damage_are_left_out_and_counted(self) -> None:
        old = record(1, served=replace(SERVED, artifact_id="0000"))
        report = shadow_report([old, None, record(2), record(3, shadow=None, problem="policy")])
        assert (report.n, report.n_damaged, report.n_refused, report.agreement.n) == (2, 1, 1, 1)
        assert "1 of served 0000, shadow bbbb: left out" in render(report) and "1 damaged" in render(report)

    def test_other_artifacts_can_be_named(self) -> None:
        old = [record(n, served=replace(SERVED, artifact_id="0000")) for n in range(3)]
        records = [*old, record(9)]
        for names in ({"served_id": "0000"}, {"served_id": "0000", "shadow_id": "bbbb"}):
            report = shadow_report(records, **names)
            assert (report.served_id, report.n, [one.n for one in report.others]) == ("0000", 3, [1])
        assert shadow_report(records, shadow_id="bbbb").served_id == "aaaa"
        unheard = shadow_report(records, shadow_id="cccc")
        assert (unheard.n, [one.n for one in unheard.others]) == (0, [3, 1])
        assert render(unheard).startswith("no records\n3 of served 0000, shadow bbbb")

    def test_one_artifact_twice_is_told(self) -> None:
        itself = record(1, shadow=replace(SHADOW, artifact_id="aaaa", model="small"))
        assert "both are the same artifact" in render(shadow_report([itself]))
        assert "both are the same artifact" not in render(shadow_report([record(1)]))

    def test_nothing_is_told_from_nothing(self) -> None:
        assert render(shadow_report([])) == "no records"
        assert render(shadow_report([None])) == "no records; 1 damaged lines"
        refused = shadow_report([record(1, shadow=None, problem="policy")])
        assert refused.agreement.value is None and "(never decided)" in render(refused)

    def test_unknown_costs_are_no_difference(self) -> None:
        report = shadow_report([record(n, served=replace(SERVED, cost_usd=None)) for n in range(30)])
        assert report.expected.cost_difference_usd == Mean(0, None)

    @given(st.integers(0, 500), st.integers(0, 500))
    def test_a_share_has_an_interval_that_holds_it(self, a: int, b: int) -> None:
        share = Mean.of_share(a, a + b)
        if a + b == 0:
            assert share.value is None
        else:
            assert share.low is not None and share.high is not None and share.value is not None
            assert 0 <= share.low <= share.value + 1e-12 and share.value <= share.high + 1e-12 <= 1 + 2e-12

    def test_few_values_have_no_interval(self) -> None:
        assert Mean.of([0.5] * (MIN_INTERVAL - 1)).low is None
        assert Mean.of([0.5] * MIN_INTERVAL).low == 0.5


class TestFeedback:
    def test_ratings_where_both_agree_and_where_they_differ(self) -> None:
        records = [record(n, agrees=n % 2 == 0) for n in range(60)]
        events = [event(n, Score("small", 0.9 if n % 2 == 0 else 0.4)) for n in range(50)]
        events += [event(999, Score("small", 0.0)), StoredEvent(1, replace(events[0].event, decision_id=None))]
        found = shadow_report(records, events).found
        assert found is not None
        assert (found.n_events, found.rated_agree.n, found.rated_differ.n) == (50, 25, 25)
        assert (found.rated_agree.value, found.rated_differ.value) == (pytest.approx(0.9), pytest.approx(0.4))
        text = render(shadow_report(records, events))
        assert "was not asked" in text and "nothing tells of the shadow's own value" in text
        assert found.value_shadow == Mean(0, None)

    def test_several_verdicts_on_a_decision_are_one(self) -> None:
        events = [event(1, Score("small", score)) for score in (0.0, 1.0)]
        found = shadow_report([record(1)], events).found
        assert found is not None and (found.rated_differ.n, found.rated_differ.value) == (1, 0.5)

    def test_battles_between_the_two(self) -> None:
        outcomes = [
            Battle("small", "large", "model_b"),
            Battle("large", "small", "model_a"),
            Battle("small", "large", "model_a"),
            Battle("small", "large", "tie"),
            Battle("small", "medium", "model_b"),
        ]
        found = shadow_report([record(n) for n in range(5)], [event(n, one) for n, one in enumerate(outcomes)]).found
        assert found is not None and (found.battles.n, found.battles.value) == (4, pytest.approx(2.5 / 4))

    @pytest.mark.parametrize("shadow_is_better", [True, False])
    def test_weighting_by_propensity_finds_what_the_shadow_is_worth(self, shadow_is_better: bool) -> None:
        """What was served depends on the prompt, and so do the ratings: a plain mean of matches would be wrong."""
        rng = random.Random(4)
        models, share, truth = ("a", "b", "c"), 0.3, []
        records, events = [], []
        for number in range(6_000):
            hard = rng.random() < 0.5
            greedy = "a" if hard else "b"
            choice = ("c" if hard else "b") if shadow_is_better else ("b" if hard else "a")
            worth = {"a": 0.4, "b": 0.3, "c": 0.7} if hard else {"a": 0.5, "b": 0.9, "c": 0.6}
            truth.append(worth[choice])
            explores = rng.random() < share
            model = rng.choice(models) if explores else greedy
            records.append(
                record(
                    number,
                    served=replace(SERVED, model=model, reason="explore" if explores else "best"),
                    shadow=replace(SHADOW, model=choice),
                    propensity=share / 3 + (1 - share) * (model == greedy),
                    explore_share=share,
                )
            )
            rating = min(1.0, max(0.0, worth[model] + rng.uniform(-0.1, 0.1)))
            events.append(event(number, Score(model, rating)))
        found = shadow_report(records, events).found
        assert found is not None and found.value_shadow.low is not None and found.value_shadow.high is not None
        assert found.value_shadow.low < float(np.mean(truth)) < found.value_shadow.high
        assert found.value_shadow.high - found.value_shadow.low < 0.05
        low, high = found.value_difference.low, found.value_difference.high
        assert low is not None and high is not None
        assert low > 0 if shadow_is_better else high < 0
        assert "weighted by propensity" in render(shadow_report(records, events))

    def test_what_could_not_be_drawn_is_left_out(self) -> None:
        records = [record(n, explore_share=0.2, drawable=n % 2 == 0) for n in range(10)]
        found = shadow_report(records, [event(n, Score("small", 0.5)) for n in range(10)]).found
        assert found is not None and (found.n_explorable, found.n_undrawable, found.n_matched) == (10, 5, 0)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    log = ShadowLog(tmp_path / "shadow.jsonl", 2**20)
    for number in range(40):
        log.write(record(number, agrees=number % 2 == 0))
    log.close()
    return tmp_path / "shadow.jsonl"


def test_the_command_line_reports(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shadow", "report", str(written), "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("agreement        50.0 %")
    assert json.loads(last)["agreement"]["value"] == 0.5 and json.loads(last)["found"] is None
    assert main(["shadow", "report", str(written) + "x"]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_the_command_line_joins_the_store(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from router.feedback.sqlite_store import SqliteStore

    store = written.with_name("feedback.db")
    with SqliteStore(store) as open_store:
        for number in range(40):
            open_store.add_event(
                replace(event(number, Score("small", 0.25)).event, decision_id=f"id-{number}")
            ).result()
    assert main(["shadow", "report", str(written), "--store", str(store), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["found"]
    assert (found["n_events"], found["rated_differ"]["n"], found["rated_differ"]["value"]) == (40, 20, 0.25)
