"""Money, limits and faults: what the ledger promises, with real processes that are killed, frozen and restarted.

Replicas are `pointsman serve` processes on one Redis server; upstreams count what they answered. Parts
(`--parts`): `budget` spent by callers on three replicas at once, `limits` on one and on three replicas, `frozen`
(Redis stopped by SIGSTOP), `added` (what limits and budgets add to a request), `chaos` (experts, replicas and Redis
killed in turn under load), `soak` (memory over time), `record` (the writing behind by itself), `keys` (whether the
time of a key's check tells why it was refused).
"""

import argparse
import asyncio
import contextlib
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
from key_timing import measure as key_figures
from ledger_cost import measure as record_figures
from report import Figure, judged, keep, report
from rig import Tally, ask, callers, nano, rig, until
from servers import memory

CALLERS = 64
ADDED_ROUNDS, ADDED_TURNS = 12, 250
#: A caller who comes more rarely than spares live finds none, and waits for Redis.
RARE_TURNS, RARE_S = 40, 1.1


async def budget_part(options: argparse.Namespace) -> list[Figure]:
    """$10 spent by 64 callers on three replicas, every caller asking on until all are refused."""
    usd = 10.0
    async with rig(3, budget={"usd": usd, "per": "month"}) as made:
        tally = Tally()
        await callers(CALLERS, made.urls, tally, lambda: tally.refused < 4 * CALLERS)
        billed = made.upstreams.billed().total()
    dearest = nano(1, 100)
    return [
        judged(
            Figure(
                "budget of $10, 64 callers, 3 replicas: overshoot in requests of the dearest kind",
                max(billed - usd * 1e9, 0) / dearest,
                goal="< 1",
            )
        ),
        Figure("budget of $10: spent", billed / 1e9, unit="USD"),
        Figure("budget of $10: answers", tally.answered),
        judged(Figure("budget of $10: failures other than 429", len(tally.failed), goal="<= 0")),
    ]


async def limits_part(options: argparse.Namespace) -> list[Figure]:
    """Answers in every minute of two against a limit of 300 a minute, many times as many being asked."""
    rate, figures = 300, []
    for replicas in (1, 3):
        async with rig(replicas, limits={"requests_per_minute": rate}) as made:
            tally, began = Tally(), time.monotonic()
            await callers(16, made.urls, tally, until(options.limits_s), pause_s=0.2)
        times = [at - began for at in tally.answered_at]
        starts = [second / 2 for second in range(int(2 * (options.limits_s - 60)))]
        windows = [sum(start <= at < start + 60 for at in times) for start in starts]
        most = max(windows)
        kept = sum(at < times[0] + 120 for at in times) / (2 * rate)
        name = f"limit of {rate} a minute, {replicas} replica{'s' if replicas > 1 else ''}"
        figures += [
            judged(Figure(f"{name}: most in any minute, of the limit", most / rate, goal="<= 1.01")),
            judged(Figure(f"{name}: rate over two minutes, of the limit", kept, goal=">= 0.99")),
            judged(Figure(f"{name}: failures other than 429", len(tally.failed), goal="<= 0")),
        ]
    return figures


async def frozen_part(options: argparse.Namespace) -> list[Figure]:
    """Latency with Redis frozen, against the same gateway before, under limits that allow all of it."""
    settings = {"limits": {"requests_per_minute": 10**6}, "budget": {"usd": 10**6, "per": "month"}}
    async with rig(1, **settings) as made:
        before, during = Tally(), Tally()
        await callers(8, made.urls, Tally(), until(3.0), pause_s=0.05)
        await callers(8, made.urls, before, until(10.0), pause_s=0.05)
        made.redis.freeze()
        await callers(8, made.urls, during, until(10.0), pause_s=0.05)
        made.redis.thaw()
    added = [
        statistics.quantiles(during.took_ms, n=100)[at] - statistics.quantiles(before.took_ms, n=100)[at]
        for at in (49, 98)
    ]
    return [
        judged(Figure("Redis frozen: added at the median", added[0], unit="ms", goal="< 6")),
        judged(Figure("Redis frozen: added at p99", added[1], unit="ms", goal="< 20")),
        judged(Figure("Redis frozen: refused or failed", during.refused + len(during.failed), goal="<= 0")),
    ]


async def added_part(options: argparse.Namespace) -> list[Figure]:
    """The same request with and without limits and budgets, one caller, request by request in turn."""
    limited = {"limits": {"requests_per_minute": 10**6}, "budget": {"usd": 10**6, "per": "month"}}
    trees = {"": None, **({f" ({options.against.name})": options.against.resolve()} if options.against else {})}
    async with contextlib.AsyncExitStack() as stack:
        sides = [
            (
                name,
                guarded,
                await stack.enter_async_context(rig(1, wait_ms=1.0, tree=tree, **(limited if guarded else {}))),
            )
            for name, tree in trees.items()
            for guarded in (False, True)
        ]
        took: dict[tuple[str, bool], list[list[float]]] = {side[:2]: [] for side in sides}
        async with httpx.AsyncClient(timeout=60.0) as client:
            for number in range(ADDED_ROUNDS + 1):
                tallies = [Tally() for _ in sides]
                for turn in range(ADDED_TURNS):
                    for at in random.Random(turn).sample(range(len(sides)), len(sides)):
                        await ask(client, sides[at][2].urls[0], tallies[at], "one")
                if number:  # the first round warms up
                    for (name, guarded, _), tally in zip(sides, tallies, strict=True):
                        took[name, guarded].append(tally.took_ms)
            rare = [Tally() for _ in sides]
            for turn in range(RARE_TURNS):
                await asyncio.sleep(RARE_S)
                for at in random.Random(turn).sample(range(len(sides)), len(sides)):
                    await ask(client, sides[at][2].urls[0], rare[at], "one")
    figures = []
    for name in trees:
        for said, at, goal in (("the median", 49, "< 0.3"), ("p99", 98, None)):
            added = [
                statistics.quantiles(guarded, n=100)[at] - statistics.quantiles(plain, n=100)[at]
                for plain, guarded in zip(took[name, False], took[name, True], strict=True)
            ]
            low, _, high = statistics.quantiles(added, n=4)
            figure = Figure(
                f"limits and budgets{name}: added to a request at {said} (quartiles of {ADDED_ROUNDS} rounds)",
                statistics.median(added),
                low,
                high,
                "ms",
                goal,
            )
            figures.append(judged(figure) if goal else figure)
        plain, guarded = (rare[[side[:2] for side in sides].index((name, on))].took_ms for on in (False, True))
        waits = statistics.quantiles([with_ - without for without, with_ in zip(plain, guarded, strict=True)], n=4)
        said = f"limits and budgets{name}: added at the median to one request in {RARE_S:g} s (quartiles)"
        figures.append(Figure(said, waits[1], waits[0], waits[2], "ms"))
    return figures


async def chaos_part(options: argparse.Namespace) -> list[Figure]:
    """An expert is killed every 20 s, a replica every minute, and Redis stopped for 30 s twice."""
    seconds = options.chaos_s
    async with rig(3, wait_ms=20.0, budget={"usd": 10**6, "per": "month"}) as made:
        tally, on = Tally(), until(seconds)
        users, cut_off = itertools.count(), set[int]()
        done = asyncio.Event()

        async def caller(number: int) -> None:
            """Asks; where a replica is gone, asks the next, as a load balancer does."""
            asked = number
            async with httpx.AsyncClient(timeout=60.0) as client:
                while on():
                    for _ in range(2 * len(made.urls)):
                        user = next(users)
                        try:
                            await ask(client, made.urls[asked % len(made.urls)], tally, "auto", user)
                            break
                        except httpx.TransportError:
                            cut_off.add(user)
                            asked += 1
                            await asyncio.sleep(0.05)
                    else:
                        tally.failed.append("no replica answered")
                    asked += 1
                    await asyncio.sleep(0.2 * random.uniform(0.5, 1.5))

        async def each(period: float, at: float, act: Callable[[int], Awaitable[None]]) -> None:
            number = 0
            await asyncio.sleep(at)
            while on():
                await act(number)
                number += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(done.wait(), period)
                if done.is_set():
                    return

        async def expert(number: int) -> None:
            name = made.upstreams.names[number % 2]
            made.upstreams.kill(name)
            await asyncio.sleep(4.0)
            made.upstreams.start(name)

        async def replica(number: int) -> None:
            made.kill(number % 3)
            made.start(number % 3)

        async def outage(number: int) -> None:
            if number < 2:
                made.redis.kill()
                await asyncio.sleep(30.0)
                made.redis.start()

        faults = [
            asyncio.create_task(each(20.0, 10.0, expert)),
            asyncio.create_task(each(60.0, 25.0, replica)),
            asyncio.create_task(each(seconds / 2, 40.0, outage)),
        ]
        await asyncio.gather(*(caller(number) for number in range(CALLERS)))
        done.set()
        await asyncio.gather(*faults)
        await made.ready()
        await asyncio.sleep(5.0)  # what is owed is written
        billed = made.upstreams.billed()
        kept, estimated = made.ledger_nano()
    for failure in sorted(set(tally.failed)):
        print("chaos:", failure)
    answered = sum(cost for user, cost in billed.items() if user not in cut_off)
    lost = billed.total() - answered
    # nobody told a killed replica what its calls came to: the ledger has some as told, the others estimated
    off = max(answered - (kept - estimated), (kept - estimated) - answered - lost, 0)
    return [
        judged(Figure(f"chaos of {seconds:g} s: requests that failed", len(tally.failed), goal="<= 0")),
        Figure("chaos: answers", tally.answered),
        Figure("chaos: requests cut off, and moved to another replica", len(cut_off)),
        Figure("chaos: billed by the upstreams for answers", answered / 1e9, unit="USD"),
        Figure("chaos: billed by the upstreams for requests cut off", lost / 1e9, unit="USD"),
        Figure("chaos: ledger, as told by the upstreams", (kept - estimated) / 1e9, unit="USD"),
        Figure("chaos: ledger, estimated", estimated / 1e9, unit="USD"),
        judged(Figure("chaos: ledger off, cut off calls apart", off / 1e9, unit="USD", goal="<= 1e-6")),
        Figure("chaos: ledger above the upstreams", (kept - billed.total()) / 1e9, unit="USD"),
    ]


async def soak_part(options: argparse.Namespace) -> list[Figure]:
    """Memory of one replica after a minute and at the end, at about half of what it could take."""
    async with rig(1, wait_ms=20.0, budget={"usd": 10**6, "per": "month"}) as made:
        tally = Tally()
        load = asyncio.create_task(callers(32, made.urls, tally, until(options.soak_s), pause_s=0.1, model="auto"))
        await asyncio.sleep(60.0)
        first = _rss_mib(made.pid(0))
        await asyncio.sleep(max(options.soak_s - 65.0, 0.0))
        last = _rss_mib(made.pid(0))
        await load
    return [
        judged(
            Figure(
                f"soak of {options.soak_s:g} s: memory at the end over that after a minute",
                last / first,
                goal="<= 1.05",
            )
        ),
        Figure("soak: memory at the end", last, unit="MiB"),
        Figure("soak: answers", tally.answered),
        judged(Figure("soak: failures", len(tally.failed) + tally.refused, goal="<= 0")),
    ]


def _rss_mib(pid: int) -> float:
    return memory(pid)[0].rss_mib


async def record_part(options: argparse.Namespace) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        return await record_figures(Path(folder))


async def keys_part(options: argparse.Namespace) -> list[Figure]:
    return await asyncio.to_thread(key_figures)


PARTS: dict[str, Callable[[argparse.Namespace], Awaitable[list[Figure]]]] = {
    "budget": budget_part,
    "limits": limits_part,
    "frozen": frozen_part,
    "added": added_part,
    "chaos": chaos_part,
    "soak": soak_part,
    "record": record_part,
    "keys": keys_part,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--limits-s", type=float, default=125.0)
    parser.add_argument("--chaos-s", type=float, default=600.0)
    parser.add_argument("--soak-s", type=float, default=1_800.0)
    parser.add_argument("--against", type=Path, help="of `added`: another checkout to measure in turn with this")
    parser.add_argument("--name", default="ledger", help="of the file in build/bench")
    options = parser.parse_args()
    found: list[Figure] = []
    for part in options.parts:
        found += asyncio.run(PARTS[part](options))
        keep(options.name, found)
    report(options.name, found)


if __name__ == "__main__":
    main()
