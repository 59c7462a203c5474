"""benchmarks/quality.py: what is pooled with what, and the table of it."""

import numpy as np
import pytest
from quality import OURS, pooled_by_labels
from quality_tables import pooled as pooled_table

# (labels, ours minus ridge) of three sets; the second has no MLP.
SETS = {"one": ("scores", 0.02), "two": ("battles", 0.1), "three": ("scores", 0.04)}


@pytest.fixture(scope="module")
def numbers() -> dict:
    rng = np.random.default_rng(0)
    sets, resampled = {}, {}
    for name, (labels, lead) in SETS.items():
        peers = ("ridge", "RouterBench MLP", "oracle") if labels == "scores" else ("ridge", "oracle")
        sets[name] = {"labels": labels, "methods": {peer: {"ours_minus_this": {"mean": lead}} for peer in peers}}
        ours = 0.5 + 0.001 * rng.standard_normal(2000)
        resampled[name] = {OURS: ours} | {peer: ours - lead + 0.001 * rng.standard_normal(2000) for peer in peers}
    return pooled_by_labels(sets, resampled)


def test_scores_and_battles_are_pooled_apart(numbers: dict) -> None:
    found = {key: (one["ridge"]["n_sets"], one["ridge"]["mean"]) for key, one in numbers.items()}
    assert found == {
        "pooled": (3, pytest.approx(0.16 / 3)),
        "pooled_scores": (2, pytest.approx(0.03)),
        "pooled_battles": (1, pytest.approx(0.1)),
    }
    assert "RouterBench MLP" not in numbers["pooled_battles"]
    assert numbers["pooled"]["RouterBench MLP"]["n_sets"] == 2


def test_holm_counts_the_peers_of_its_own_pool(numbers: dict) -> None:
    smallest = 2 / 2001
    assert numbers["pooled_scores"]["ridge"]["p_holm"] == pytest.approx(2 * smallest)
    assert numbers["pooled_battles"]["ridge"]["p_holm"] == pytest.approx(smallest)
    assert numbers["pooled"]["oracle"]["p_holm"] is None, "a reference is no hypothesis"


def test_the_table_shows_what_the_record_has(numbers: dict) -> None:
    row = next(line for line in pooled_table(numbers).splitlines() if line.startswith("| RouterBench MLP"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == 13 and cells[1] == "2" and cells[5] == "2" and cells[9:] == ["-"] * 4
    old = pooled_table({"pooled": numbers["pooled"]})
    assert "battle sets" not in old and "| ridge | 3 |" in old
