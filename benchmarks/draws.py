"""Many small simulations spread over processes, how sure a count of them is, and the tables made of them."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

from scipy.stats import beta
from tables import fill
from tqdm import tqdm

README = Path(__file__).parent / "README.md"
LEVEL = 0.95

Outcome = TypeVar("Outcome")


def spread(run: Callable[..., Outcome], jobs: Sequence[tuple[Any, ...]], workers: int) -> list[Outcome]:
    """Return ``run(*job)`` of every job, in order. run: a module's function, so that fresh processes find it."""
    done: dict[int, Outcome] = {}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(run, *job): number for number, job in enumerate(jobs)}
        with tqdm(total=len(jobs), unit="draw", disable=None) as bar:
            for one in as_completed(waiting):
                done[waiting[one]] = one.result()
                bar.update(1)
    return [done[number] for number in range(len(jobs))]


def clopper_pearson(hits: int, n: int) -> tuple[float, float]:
    """Return the exact two-sided 95 % interval of a share, from ``hits`` of ``n`` draws (Clopper & Pearson 1934)."""
    tail = (1.0 - LEVEL) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits == n else float(beta.ppf(1.0 - tail, hits + 1, n - hits))
    return low, high


def counted(hits: int, n: int) -> dict[str, float]:
    """Return the count for the record, with its interval."""
    low, high = clopper_pearson(hits, n)
    return {"hits": hits, "n": n, "share": hits / n, "low": low, "high": high}


def share_text(count: dict[str, float]) -> str:
    """Return the share and its interval in per cent."""
    return f"{100 * count['share']:.1f} % ({100 * count['low']:.1f} to {100 * count['high']:.1f})"


def fill_readme(name: str, content: str) -> None:
    """Write a table between its markers in the README of the benchmarks."""
    README.write_text(fill(README.read_text(), name, content))
