"""benchmarks/mutations.py in small: nothing damaged is accepted and wrong, and the control sees that it could be."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from mutate import CONTENT, IN_MANIFEST, IN_PLACE, draw, is_changed, rebuild, rewrite_manifest
from mutations import ACCEPTED_SAME, ACCEPTED_WRONG, CRASHED, HUNG, REFUSED, Load, proves, run, summary

from router.artifact import RouterArtifact, load_artifact
from router.errors import RouterError

N = 300


@pytest.fixture(scope="module")
def written(artifact: RouterArtifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("mutations") / "v1"
    replace(artifact, prompts=tuple(f"prompt {row}" for row in range(artifact.n_rows))).write(directory)
    return directory


def test_three_hundred_mutations_do_no_harm_and_the_control_could_see_it(written: Path) -> None:
    loads = run(written, range(N), seed=7)
    control = run(written, range(40), seed=8, without=("fingerprints", "answers"))
    assert proves(loads, control)
    counts = summary(loads)
    assert counts["n"] == N and counts["n_rewritten"] == N // 3
    assert counts["outcomes"][REFUSED] > 0.8 * N
    assert counts["refused_by_rewritten"]["fingerprint"] > N // 6


def test_every_kind_of_mutation_is_drawn() -> None:
    drawn = Counter(draw(number, 0, only_rewritten=False)[:2] for number in range(3_000))
    in_content = {(kind, rewritten) for kind in (*CONTENT, *IN_MANIFEST) for rewritten in (False, True)}
    assert set(drawn) == in_content | {(kind, False) for kind in IN_PLACE}
    assert sum(n for (_, rewritten), n in drawn.items() if rewritten) == 1_000


@pytest.mark.parametrize("outcome", [ACCEPTED_WRONG, CRASHED, HUNG])
def test_one_harm_is_enough(outcome: str) -> None:
    fine, seen = Load(1, "flip_bit", False, REFUSED, "x"), Load(1, "flip_bit", True, ACCEPTED_WRONG, "")
    assert proves([fine, replace(fine, outcome=ACCEPTED_SAME)], [seen])
    assert not proves([fine, replace(fine, outcome=outcome)], [seen])
    assert not proves([fine], [fine])


@pytest.mark.parametrize("kind", IN_PLACE, ids=lambda kind: kind.__name__)
def test_what_stands_in_the_place_of_a_file_is_refused(written: Path, tmp_path: Path, kind: object) -> None:
    names = [str(one.relative_to(written)) for one in written.rglob("*") if one.is_file()]
    pristine = {name: (written / name).read_bytes() for name in names}
    home = tmp_path / "copy"
    shutil.copytree(written, home)
    for number in range(4):
        rebuild(home, pristine)
        kind(home, draw(number, 3, only_rewritten=False)[2])  # type: ignore[operator]
        if kind.__name__ == "extra_file":  # type: ignore[attr-defined]
            assert load_artifact(home).id == load_artifact(written).id
            continue
        with pytest.raises(RouterError):
            load_artifact(home)


def test_what_was_not_changed_is_no_mutation(written: Path, tmp_path: Path) -> None:
    pristine = {str(one.relative_to(written)): one.read_bytes() for one in written.rglob("*") if one.is_file()}
    home = tmp_path / "copy"
    rebuild(home, pristine)
    assert not is_changed(home, pristine)
    rewrite_manifest(home)
    assert (home / "manifest.json").read_bytes() != pristine["manifest.json"] and not is_changed(home, pristine)
    for kind in (*CONTENT, *IN_MANIFEST, *IN_PLACE):
        rebuild(home, pristine)
        for number in range(50):
            kind(home, draw(number, 5, only_rewritten=False)[2])
            if is_changed(home, pristine):
                break
        assert is_changed(home, pristine), kind.__name__
