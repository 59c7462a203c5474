"""router/cache.py: what is kept, under which key, and what goes first."""

from dataclasses import replace
from threading import Thread
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from router.cache import DecisionCache, cache_key
from router.types import Decision, Policy


def decision(number: int) -> Decision:
    return cast(Decision, number)


def test_the_key_is_all_that_a_decision_depends_on() -> None:
    key = cache_key("a prompt", (Policy(), False))
    assert key == cache_key("a prompt", (Policy(), False))
    others = [cache_key("a prompt ", (Policy(), False)), cache_key("a prompt", (Policy(), True))]
    others += [
        cache_key("a prompt", (policy, False))
        for policy in (
            Policy(candidates=("a",)),
            Policy(exclude=("a",)),
            Policy(max_cost_usd=1.0),
            Policy(strategy="cheap"),
            Policy(willingness_to_pay_usd=1.0),
            Policy(route_anyway=True),
            Policy(fallback="a"),
        )
    ]
    assert len({key, *others}) == 1 + len(others)
    assert len(key) == 16


def test_a_text_with_half_a_surrogate_has_a_key() -> None:
    assert cache_key("\ud800", (Policy(), True)) != cache_key("?", (Policy(), True))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=60), st.integers(1, 4))
def test_it_keeps_those_asked_for_last(steps: list[tuple[bool, int]], n_entries: int) -> None:
    cache, model = DecisionCache(n_entries), {}
    for put, number in steps:
        key = cache_key(str(number), (Policy(), False))
        if put:
            cache.put(key, decision(number))
            model.pop(number, None)
            model[number] = number
            if len(model) > n_entries:
                model.pop(next(iter(model)))
        else:
            assert cache.get(key) == model.get(number)
            if number in model:
                model[number] = model.pop(number)
        assert len(cache) == len(model)


def test_none_are_kept_where_none_may_be() -> None:
    cache, key = DecisionCache(0), cache_key("a", (Policy(), False))
    cache.put(key, decision(1))
    assert cache.get(key) is None and len(cache) == 0


def test_it_forgets_everything() -> None:
    cache, key = DecisionCache(3), cache_key("a", (Policy(), False))
    cache.put(key, decision(1))
    cache.clear()
    assert cache.get(key) is None


def test_threads_do_not_break_it() -> None:
    cache = DecisionCache(8)

    def use() -> None:
        for number in range(2000):
            key = replace_key(number % 16)
            cache.put(key, decision(number))
            cache.get(key)

    threads = [Thread(target=use) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(cache) == 8


def replace_key(number: int) -> bytes:
    return cache_key(str(number), (replace(Policy(), max_cost_usd=float(number)), False))
