"""router/session.py: bounded, forgotten after a while, and safe under threads."""

from concurrent.futures import ThreadPoolExecutor

from router.session import SessionTable


def test_a_session_is_with_the_model_that_was_kept_last() -> None:
    table = SessionTable(10, ttl_ms=100.0)
    assert table.model_of("a", 0.0) is None and len(table) == 0
    table.keep("a", "first", 0.0)
    table.keep("a", "second", 1.0)
    table.keep("b", "third", 1.0)
    assert (table.model_of("a", 2.0), table.model_of("b", 2.0), len(table)) == ("second", "third", 2)


def test_the_longest_unused_goes_first() -> None:
    table = SessionTable(2, ttl_ms=100.0)
    table.keep("a", "one", 0.0)
    table.keep("b", "two", 1.0)
    table.keep("a", "one", 2.0)  # used again, so that b is now the longest unused
    table.keep("c", "three", 3.0)
    assert [table.model_of(one, 4.0) for one in "abc"] == ["one", None, "three"]
    assert len(table) == 2


def test_an_unused_session_is_forgotten_and_a_used_one_lives_on() -> None:
    table = SessionTable(10, ttl_ms=100.0)
    table.keep("a", "one", 0.0)
    assert table.model_of("a", 100.0) == "one"
    table.keep("a", "one", 100.0)
    assert table.model_of("a", 200.0) == "one"
    assert table.model_of("a", 200.1) is None and len(table) == 0


def test_a_table_without_entries_remembers_nothing() -> None:
    table = SessionTable(0, ttl_ms=100.0)
    table.keep("a", "one", 0.0)
    assert table.model_of("a", 0.0) is None and len(table) == 0


def test_threads_neither_break_it_nor_grow_it() -> None:
    table = SessionTable(50, ttl_ms=5.0)

    def work(thread: int) -> bool:
        right = True
        for number in range(3_000):
            name = f"session-{(number * 7 + thread) % 80}"
            table.keep(name, f"model of {name}", float(number))
            found = table.model_of(name, float(number))
            right &= found in (None, f"model of {name}")
        return right

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert 0 < len(table) <= 50
