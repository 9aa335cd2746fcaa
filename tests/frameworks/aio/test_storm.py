"""A storm over three event loops, with cancels and kills: the books and the server agree in the end.

Each operation writes one row of its own, and notes what it was told. If it was told "saved", the row must be there. If
it was told of an error, or cancelled, the row must not be there. Only CommitUncertain leaves it open.
"""

import asyncio
import random
import threading
import time
from collections import Counter
from typing import Any

import pytest

import lambda_pool
from lambda_pool import CommitUncertain
from tests.frameworks.aio.conftest import Ground, at_rest, query
from tests.support.speed import FULL, SEED

LOOPS = 3
OPERATIONS = 10_000 if FULL else 500


class Books:
    """What each operation was told, by its number."""

    def __init__(self) -> None:
        self.told: dict[int, str] = {}
        self.reasons: Counter[str] = Counter()

    def note(self, number: int, told: str, error: BaseException | None = None) -> None:
        self.told[number] = told
        self.reasons[type(error).__name__ if error is not None else told] += 1

    def check(self, rows: list[int]) -> None:
        saved = {number for number, told in self.told.items() if told == "saved"}
        uncertain = {number for number, told in self.told.items() if told == "uncertain"}
        there = set(rows)
        assert len(rows) == len(there)
        assert saved - there == set(), "told of as saved, and not there"
        assert there - saved - uncertain == set(), "not told of as saved, and there"


async def operation(
    ground: Ground, pool: lambda_pool.AsyncPool, books: Books, number: int, dice: random.Random
) -> None:
    way = dice.choice(["block", "block", "run", "commit", "fail", "read"])

    async def work(conn: Any) -> None:
        await ground.insert(conn, number)
        if dice.random() < 0.3:
            await query(conn, "select 1")
        if way == "commit":
            await conn.commit()
        if way == "fail":
            raise ZeroDivisionError

    try:
        if way == "run":
            await pool.run(work)
        elif way == "read":
            async with pool.connection(readonly=True) as conn:
                await query(conn, "select 1")
            books.note(number, "read")
            return
        else:
            async with pool.connection() as conn:
                await work(conn)
    except CommitUncertain as error:
        books.note(number, "uncertain", error)
    except asyncio.CancelledError as error:
        # A commit() in the middle of a block has saved what the block is then told of as cancelled, or as lost.
        books.note(number, "uncertain" if way == "commit" else "cancelled", error)
        raise
    except Exception as error:
        books.note(number, "uncertain" if way == "commit" else "failed", error)
    else:
        books.note(number, "saved")


async def weather(tasks: list["asyncio.Task[None]"], dice: random.Random) -> None:
    """Cancel one task in ten, at any time, some of them twice."""
    for _ in tasks:
        await asyncio.sleep(dice.random() * 0.004)
        if dice.random() < 0.3:
            victim = dice.choice(tasks)
            victim.cancel()
            if dice.random() < 0.2:
                await asyncio.sleep(dice.random() * 0.002)
                victim.cancel()


async def loop_of(ground: Ground, pool: lambda_pool.AsyncPool, books: Books, numbers: range, seed: int) -> None:
    dice = random.Random(seed)
    step = 40
    for begin in range(numbers.start, numbers.stop, step):
        tasks = [
            asyncio.create_task(operation(ground, pool, books, number, dice))
            for number in range(begin, min(begin + step, numbers.stop))
        ]
        await weather(tasks, dice)
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.sampled(1, "2 s a case")
@pytest.mark.timeout(1200 if FULL else 200)
def test_a_storm(ground: Ground) -> None:
    pool = ground.pool(max_size=4, timeout=20, name="storm")
    books = Books()
    share = OPERATIONS // LOOPS + 1
    failures: list[BaseException] = []

    def run(number: int) -> None:
        numbers = range(number * share, (number + 1) * share)
        try:
            asyncio.run(loop_of(ground, pool, books, numbers, SEED + number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(LOOPS)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.15)
        for backend in sessions(ground)[:1]:
            ground.database.kill(backend)
    for thread in threads:
        thread.join()
    assert failures == []
    books.check(ground.rows())
    assert books.reasons["saved"] > OPERATIONS / 5
    assert books.reasons["CancelledError"] > 0
    stats = pool.stats()
    assert stats.size <= 4
    assert at_rest(pool)


def sessions(ground: Ground) -> list[int]:
    """The backends of the pool."""
    if ground.engine == "postgresql":
        found = ground.database.execute(
            "select pid from pg_stat_activity where application_name = 'storm' order by random()"
        )
    else:
        found = ground.database.execute(
            "select id from information_schema.processlist where id <> connection_id() and user <> 'system user' "
            f"and db = (select database()) and info like '%{ground.table}%' order by rand()"
        )
    return [int(row[0]) for row in found]
