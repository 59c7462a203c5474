"""benchmarks/load*.py, schedule.py, latency_*.py: open loop, the arithmetic on records made by hand, the tables."""

import json
import math
import operator
import sys
import time
from functools import partial

import latency
import latency_tables
import latency_throughput
import numpy as np
import pytest
import record
from http_bytes import Client, get_request, post_request, read_answer
from latency_ladder import highest, is_sustained
from load import NO_BUDGET, TIERS, WARM_CONNECTIONS, Answers, tier_code
from load_run import Offer, offer_load, send
from load_summary import across, by_budget, in_budget, is_void, points, quantiles, recovery_s, send_lag, summary
from prompt_mix import LONG_WORDS, SHORT_WORDS, by_length, cut, mixed, repeated
from router_process import interleaved
from schedule import BURST, Phase, Schedule, bursts, poisson, schedule
from served import loop_lag_ms, serving

TEXTS = [f"{'word ' * n}{n}" for n in range(1, 400, 3)]


# Schedules


def test_poisson_has_the_mean_and_the_gaps_of_independent_arrivals():
    at_s = poisson(200.0, 100.0, np.random.default_rng(1))
    gaps = np.diff(at_s)

    assert len(at_s) == pytest.approx(20_000, rel=0.03)
    assert np.all(gaps >= 0) and at_s[0] >= 0 and at_s[-1] < 100.0
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03), "exponential gaps spread as much as they last"


def test_bursts_have_the_mean_rate():
    at_s = bursts(100.0, 10.0, np.random.default_rng(0))

    assert len(at_s) == 1000
    assert set(np.unique(at_s, return_counts=True)[1]) == {BURST}


def test_phases_follow_each_other_and_the_seed_says_all():
    phases = [Phase(10, 5, poisson), Phase(200, 2, poisson), Phase(10, 5, poisson)]
    plan, again = schedule(phases, 3), schedule(phases, 3)

    assert plan.ends_s.tolist() == [5, 7, 12]
    assert np.array_equal(plan.at_s, again.at_s)
    assert np.all(np.diff(plan.at_s) >= 0)
    starts_s = plan.ends_s - [5, 2, 5]
    assert np.all((plan.at_s >= starts_s[plan.phase]) & (plan.at_s < plan.ends_s[plan.phase]))
    assert not np.array_equal(plan.at_s, schedule(phases, 4).at_s[: len(plan)])


# Prompts


def test_mix_has_its_shares_and_lengths():
    drawn = mixed(TEXTS, 10_000, seed=0)
    sizes = np.array([len(drawn.prompts[at].split()) for at in drawn.order])

    assert (sizes < SHORT_WORDS).mean() == pytest.approx(0.60, abs=0.02)
    assert (sizes == LONG_WORDS).mean() == pytest.approx(0.05, abs=0.01)
    assert sizes.max() == LONG_WORDS
    assert np.array_equal(drawn.order, mixed(TEXTS, 10_000, seed=0).order)


def test_mix_takes_every_prompt_before_one_comes_again():
    pools = by_length(TEXTS, 0)
    drawn = mixed(TEXTS, len(pools["short"]), seed=0)

    assert len(np.unique(drawn.order)) == len(drawn.order)


def test_cut_keeps_line_breaks():
    assert cut("one\n two  three four", 3) == "one\n two  three"
    assert cut("one two", 3) == "one two"


# Arithmetic


def answers_of(latency_ms, *, at_s=None, lag_ms=0.0, budget_ms=NO_BUDGET, status=200, tier="full", degraded=0):
    """Answers that took so long; NaN: none came."""
    took = np.asarray(latency_ms, dtype=float)
    n = len(took)
    at_s = np.arange(n, dtype=float) if at_s is None else np.asarray(at_s, dtype=float)
    sent_s = at_s + np.broadcast_to(lag_ms, n) / 1e3
    return Answers(
        at_s=at_s,
        sent_s=sent_s,
        done_s=sent_s + took / 1e3,
        budget_ms=np.broadcast_to(np.asarray(budget_ms, dtype=float), n),
        status=np.where(np.isnan(took), 0, np.broadcast_to(status, n)),
        tier=np.broadcast_to(tier_code(tier), n),
        degraded=np.broadcast_to(degraded, n),
        cached=np.full(n, -1),
        elapsed_ms=took,
        started_s=0.0,
        cpu_s=0.0,
        wall_s=1.0,
        connections=1,
        resent=0,
        unsent=0,
    )


def everything(answers):
    return np.ones(len(answers.at_s), dtype=bool)


def test_quantiles_are_times_that_were_seen():
    times_ms = np.arange(1.0, 1001.0)

    assert quantiles(times_ms) == {"p50": 500.0, "p99": 990.0, "p99.9": 999.0, "max": 1000.0}
    assert quantiles(np.array([3.0, np.inf]))["max"] is None
    assert points(np.array([]), (0.5,)) == [None]


def test_in_budget_is_judged_from_the_actual_send():
    late = answers_of([49.9, 50.1, 1.0, np.nan], lag_ms=[900.0, 0.0, 0.0, 0.0], status=[200, 200, 429, 200])

    assert in_budget(late).tolist() == [True, False, False, False]
    assert in_budget(answers_of([9.0, 11.0], budget_ms=[10.0, 10.0])).tolist() == [True, False]


def test_summary_counts_what_became_of_requests():
    found = answers_of(
        [1.0, 2.0, 3.0, 4.0, np.nan, 5.0], status=[200, 200, 429, 500, 200, 422], degraded=[1, 0, 0, 0, 0, 0]
    )
    numbers = summary(found, everything(found))

    assert (numbers["offered"], numbers["answered_200"], numbers["lost"]) == (6, 2, 1)
    assert (numbers["status_429"], numbers["status_5xx"], numbers["status_other"]) == (1, 1, 1)
    assert numbers["in_budget"] == pytest.approx(2 / 6)
    assert numbers["degraded_of_answered"] == 0.5
    assert numbers["tiers_of_answered"] == {"full": 1.0, "static": 0.0, "prior": 0.0}
    assert numbers["latency_ms"]["max"] == pytest.approx(2.0), "what was not answered 200 is not a decision's latency"


def test_summary_of_a_server_that_names_no_tier():
    found = answers_of([1.0, 2.0], tier=None, degraded=-1)
    numbers = summary(found, everything(found))

    assert sum(numbers["tiers_of_answered"].values()) == 0
    assert numbers["degraded_of_answered"] == 0


def test_a_late_generator_voids_the_run():
    lags_ms = np.where(np.arange(1000) < 985, 0.5, 6.0)
    late, in_time = answers_of(np.ones(1000), lag_ms=lags_ms), answers_of(np.ones(1000), lag_ms=0.5)

    assert send_lag(late)["p99"] == pytest.approx(6.0)
    assert is_void(send_lag(late)) and not is_void(send_lag(in_time))
    assert summary(late, everything(late))["void"]
    assert not is_sustained(summary(late, everything(late)))
    assert is_sustained(summary(in_time, everything(in_time)))


def test_sustained_means_neither_late_nor_degraded():
    few_late = answers_of(np.where(np.arange(1000) < 6, 51.0, 5.0))
    few_degraded = answers_of(np.full(1000, 5.0), degraded=(np.arange(1000) < 11).astype(int))

    assert not is_sustained(summary(few_late, everything(few_late)))
    assert not is_sustained(summary(few_degraded, everything(few_degraded)))


def test_by_budget_takes_requests_apart():
    found = answers_of([5.0, 15.0, 15.0], budget_ms=[10.0, 10.0, 50.0])
    numbers = by_budget(found, everything(found))

    assert {name: one["in_budget"] for name, one in numbers.items()} == {"10": 0.5, "50": 1.0}


def recovery_of(after_ms):
    """A request every 50 ms: 5 ms each before and 100 ms under load; then as said, from 4 s to 8 s."""
    at_s = np.arange(160) * 0.05
    phase = (at_s >= 2.0).astype(int) + (at_s >= 4.0)
    times_ms = np.where(phase == 0, 5.0, 100.0)
    times_ms[phase == 2] = [after_ms(at - 4.0) for at in at_s[phase == 2]]
    return recovery_s(answers_of(times_ms, at_s=at_s), Schedule(at_s, phase, np.array([2.0, 4.0, 8.0])))


def test_recovery_is_the_start_of_the_first_good_half_second():
    assert recovery_of(lambda s: 7.0) == 0.0
    assert recovery_of(lambda s: 50.0 if s < 1.02 else 7.0) == pytest.approx(1.1)
    assert recovery_of(lambda s: 7.6) is None
    assert recovery_of(lambda s: math.nan if s < 0.52 else 5.0) == pytest.approx(0.6), "lost is infinitely late"


def test_across_repeats():
    assert across([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}
    assert across([1.0, None]) is None


@pytest.mark.parametrize("limit", [3.0, 50.0, 97.0, 2100.0])
def test_bisection_finds_the_highest_rate(limit):
    assert limit / 1.05 <= highest(lambda rate: rate <= limit) <= limit


# The generator against small servers


SERVER = """
import asyncio, json, sys
delay_s, status, text, hang_up = float(sys.argv[1]), sys.argv[2], sys.argv[3].encode(), sys.argv[4] == "True"
head = f"HTTP/1.1 {status} X\\r\\nContent-Length: {len(text)}\\r\\n\\r\\n".encode()

class Server(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.buffer = transport, b""

    def data_received(self, data):
        self.buffer += data
        head_end = self.buffer.find(b"\\r\\n\\r\\n")
        length = self.buffer.partition(b"content-length: ")[2].split(b"\\r\\n")[0]
        if head_end >= 0 and len(self.buffer) == head_end + 4 + int(length or 0):
            get, self.buffer = self.buffer.startswith(b"GET"), b""
            asyncio.get_running_loop().call_later(0 if get else delay_s, self.begin)

    def begin(self):
        self.transport.write(head + text[:5])
        asyncio.get_running_loop().call_later(0.02, self.finish)

    def finish(self):
        self.transport.write(text[5:])
        if hang_up:
            self.transport.close()

async def serve():
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, backlog=1000)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()

asyncio.run(serve())
"""


def answering(delay_s, *, body=None, status=200, hang_up=False):
    """A server that begins every answer after a delay and ends it 20 ms later, and may then hang up without a word."""
    text = json.dumps({"tier": "static", "degraded": True, "elapsed_ms": 1.5} if body is None else body)
    return serving([sys.executable, "-c", SERVER, str(delay_s), str(status), text, str(hang_up)])


def offer(rate, seconds, seed=0):
    plan = schedule([Phase(rate, seconds, poisson)], seed)
    return Offer(plan, repeated(["hello", "good day"], len(plan)))


def test_generator_reads_the_last_byte_and_the_tier():
    with answering(0.03) as server:
        found, _ = send(server, offer(100, 1.0), bypass_cache=True)
        took_ms = (found.done_s - found.sent_s) * 1e3

        assert np.all(found.status == 200)
        assert took_ms.min() >= 49.0, "30 ms to the first byte, 20 more to the last"
        assert np.median(took_ms) < 80
        assert set(found.tier) == {TIERS.index("static")}
        assert set(found.degraded) == {1} and set(found.elapsed_ms) == {1.5} and set(found.cached) == {-1}
        assert np.all(found.sent_s >= found.at_s)
        assert send_lag(found)["p50"] < 5
        assert 0 < found.cpu_s < found.wall_s


def test_a_slow_server_does_not_slow_the_offered_rate():
    plan = offer(700, 1.0)
    with answering(0.0) as quick:
        fast, _ = send(quick, plan, bypass_cache=False)
    with answering(0.1) as server:
        slow, _ = send(server, plan, bypass_cache=False)

    assert np.array_equal(slow.at_s, fast.at_s), "the schedule is fixed in advance"
    assert len(slow.at_s) == len(plan.schedule) and np.all(slow.status == 200)
    assert np.median((slow.done_s - slow.sent_s) * 1e3) >= 99
    assert send_lag(slow)["p50"] < 5, "a closed loop of the first 64 would fall behind"
    assert slow.connections > WARM_CONNECTIONS, "700 a second for 0.12 s are 84 in flight: more than were open at first"


def test_unanswered_requests_are_lost_after_two_seconds():
    with answering(60.0) as server:
        start = time.perf_counter()
        numbers = offer_load(server, offer(50, 0.3), bypass_cache=False, loaded=0)

    assert numbers["lost"] == numbers["offered"] > 0
    assert numbers["in_budget"] == 0 and numbers["latency_ms"]["p50"] is None
    assert time.perf_counter() - start < 10


def test_a_connection_closed_while_idle_costs_no_request():
    with answering(0.0, hang_up=True) as server:
        found, _ = send(server, offer(100, 1.0), bypass_cache=False)

    assert np.all(found.status == 200)


def test_refusals_are_counted():
    with answering(0.0, status=429, body={"error": {}}) as server:
        numbers = offer_load(server, offer(50, 0.5), bypass_cache=False, loaded=0)

    assert numbers["status_429"] == numbers["offered"] and numbers["in_budget"] == 0
    assert numbers["tiers_of_answered"] == {"full": None, "static": None, "prior": None}


# Bytes


def test_answers_are_whole_with_their_last_byte():
    raw = b"HTTP/1.1 200 OK\r\nContent-Type: a\r\nContent-Length: 4\r\n\r\nbody"

    assert all(read_answer(raw[:n]) is None for n in range(len(raw)))
    assert read_answer(raw).body == b"body" and read_answer(raw).keeps_alive
    closing = read_answer(b"HTTP/1.1 429 Too Many\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    assert (closing.status, closing.keeps_alive) == (429, False)


def test_client_asks_again_where_the_server_hung_up():
    with answering(0.0, hang_up=True) as server:
        client = Client(server.port)
        for _ in range(3):
            assert client.ask(post_request("/route", {"prompt": "hello"})).status == 200
            time.sleep(0.05)
        assert client.ask(get_request("/healthz")).status == 200
        client.close()


# Processes that time themselves


def test_routers_are_timed_in_turns_in_their_own_processes():
    makes = {"upper": partial(operator.methodcaller, "upper"), "swapped": partial(operator.methodcaller, "swapcase")}
    texts = list("abcDEFG")
    found = interleaved(makes, {"upper": texts, "swapped": texts}, 3)

    assert [said for _, said in found["upper"]] == list("ABCDEFG")
    assert [said for _, said in found["swapped"]] == list("ABCdefg")
    assert all(took_ms >= 0 for one in found.values() for took_ms, _ in one)


# Metrics and wrk


def test_loop_lag_between_two_scrapes():
    name = "whichmodel_event_loop_lag"
    text = (
        f'{name}_seconds_bucket{{{{le="0.001"}}}} {{}}\n{name}_seconds_bucket{{{{le="+Inf"}}}} {{}}\n'
        f"{name}_seconds_sum 3.0\n{name}_max_seconds 0.025\nother 1"
    )

    assert loop_lag_ms(text.format(1000.0, 2000.0), text.format(1099.0, 2100.0)) == {"p99_at_most": 1.0, "max": 25.0}
    assert loop_lag_ms(text.format(1000.0, 2000.0), text.format(1090.0, 2100.0))["p99_at_most"] is None
    assert loop_lag_ms(None, text.format(10, 10)) == {"p99_at_most": 1.0, "max": 25.0}
    assert loop_lag_ms(None, None) == loop_lag_ms("other 1", "other 2") == {}


def test_wrk_output():
    text = (
        "  Latency Distribution\n     50%  900.00us\n     99%    1.20ms\n  100 requests in 2.00s\n"
        "  Socket errors: connect 0, read 1, write 0, timeout 2\n  Non-2xx or 3xx responses: 7\nRequests/sec:   1234.50"
    )

    found = latency_throughput.read(text)
    assert found == {"per_s": 1234.5, "p50_ms": 0.9, "p99_ms": 1.2, "not_200": 7, "socket_errors": 3}


def test_lua_strings_have_no_escapes_but_quotes_and_backslashes():
    script = latency_throughput.lua(['say "hi"\n\té \\ x'], bypass_cache=True)
    (body,) = [line for line in script.splitlines() if line.startswith("local bodies")]

    assert json.loads(json.loads(body.split("{", 1)[1].rstrip("}"))) == {"prompt": 'say "hi"\n\té \\ x', "cache": False}


# The record and the page


def run_of(latency_ms, **kwargs):
    """What offer_load returns, without a server."""
    found = answers_of(latency_ms, **kwargs)
    numbers = summary(found, everything(found))
    return numbers | {
        "offered_per_s": 100.0,
        "generator_cpu": 0.1,
        "server_cpu": 0.9,
        "server_rss_mib": {"max": 200.0, "growth": 1.0},
        "loop_lag_ms": {"p99_at_most": 1.0, "max": 9.0},
        "connections": 32,
        "recovery_s": 0.2,
    }


@pytest.fixture
def parts():
    void = run_of(np.full(100, 1.0), lag_ms=9.0)
    loads = {
        "1x": [run_of(np.full(100, one)) for one in (10.0, 20.0, 30.0)],
        "10x": [run_of(np.full(100, 60.0), status=429), void, run_of(np.full(100, np.nan))],
    }
    small = answers_of([5.0], budget_ms=10.0)
    loads["1x"][0]["by_budget"] = by_budget(small, everything(small))
    numbers = {"loads": loads, "rate_per_s": 90.0, "seconds": 61.0}
    budget = {
        "n": 10,
        "not_200": 0,
        "in_budget": 0.9,
        "do_nothing_in_budget": 1.0,
        "budget_met_by_server": 1.0,
        "tiers_of_answered": {"full": 0.0, "static": 0.75, "prior": 0.25},
        "latency_ms": quantiles(np.ones(10)),
    }
    made = {"commit": "abc", "machine": {"cores": 2, "cpu": "x"}}
    return {
        "ladder": made | {"numbers": numbers},
        "budgets": made | {"numbers": {"budgets_ms": {"1": budget}, "seconds": 60.0}},
    }


def test_tables_show_spread_and_void_runs(parts):
    made = latency_tables.tables(parts)

    once, ten = [line for line in made["ladder"].splitlines() if line.startswith(("| 1x |", "| 10x |"))][:2]
    assert "20.0 (10.0 to 30.0)" in once and once.endswith("| 3 |")
    assert ten.endswith("| 3, **1 VOID** |") and "| 100 |" in ten, "refused and lost requests are counted"
    assert "0.0 / 75.0 / 25.0" in made["budgets"]
    assert made["peers"] == latency_tables.NOT_YET


def test_page_has_a_place_for_every_table_and_plot(parts, tmp_path, monkeypatch):
    page = tmp_path / "latency.md"
    page.write_text(latency_tables.PAGE.read_text())
    monkeypatch.setattr(latency_tables, "PAGE", page)
    latency_tables.fill_page(parts)

    text = page.read_text()
    assert all(f"<!-- {name} -->" in text for name in latency.PARTS)
    assert "3, **1 VOID**" in text
    assert all((tmp_path / f"latency_{name}.png").is_file() for name in ("load", "quantiles", "budgets"))


def test_parts_are_written_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    for part, numbers in (("ladder", {"a": 1}), ("peers", {"b": 2}), ("ladder", {"a": 3})):
        record.write_part("latency", part, numbers, arguments={}, files=[])

    parts = json.loads((tmp_path / "latency.json").read_text())["parts"]
    assert {name: one["numbers"] for name, one in parts.items()} == {"ladder": {"a": 3}, "peers": {"b": 2}}
    assert "commit" in parts["peers"] and "semantic-router" in parts["peers"]["versions"]
