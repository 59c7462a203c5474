"""A router in a process of its own that times itself: no thread pool of one library stands in the way of another's."""

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import Any

Route = Callable[[Any], object]
Make = Callable[[], Route]
"""Pickled and called in the new process: a function of a module, or a partial of one."""

_route: Route


def interleaved(
    makes: Mapping[str, Make], inputs: Mapping[str, Sequence[Any]], turn: int
) -> dict[str, list[tuple[float, object]]]:
    """Return, per router, milliseconds and answer for each of its inputs: in turns of so many, after one to warm up.

    One process works at a time. inputs: by the router's name, equally many for each.
    """
    found: dict[str, list[tuple[float, object]]] = {name: [] for name in makes}
    spawn = multiprocessing.get_context("spawn")  # forked threads of PyTorch would be dead ones
    with ExitStack() as stack:
        pools = {
            name: stack.enter_context(ProcessPoolExecutor(1, spawn, initializer=_start, initargs=(make,)))
            for name, make in makes.items()
        }
        for name, pool in pools.items():
            pool.submit(_time, inputs[name][-turn:]).result()
        for first in range(0, len(next(iter(inputs.values()))), turn):
            for name, pool in pools.items():
                found[name] += pool.submit(_time, inputs[name][first : first + turn]).result()
    return found


def _start(make: Make) -> None:
    global _route
    _route = make()


def _time(inputs: Sequence[Any]) -> list[tuple[float, object]]:
    out = []
    for one in inputs:
        start = time.perf_counter_ns()
        answer = _route(one)
        out.append(((time.perf_counter_ns() - start) / 1e6, answer))
    return out
