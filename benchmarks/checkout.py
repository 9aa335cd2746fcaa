"""A validated warm checkout and return, against psycopg_pool's unvalidated one, in one run on a real PostgreSQL.

Prints microseconds for each and their ratio. Run: .venv/bin/python benchmarks/checkout.py
"""

import statistics
import timeit

from psycopg_pool import ConnectionPool

from lambda_pool import Pool
from lambda_pool.testing import PostgresServer

ROUNDS = 9
NUMBER = 10_000


def main() -> None:
    with PostgresServer() as server:
        ours = Pool(server.url(), observers=())
        theirs = ConnectionPool(server.url(), min_size=1, max_size=1, open=True)
        theirs.wait()

        def checkout_ours() -> None:
            with ours.connection():
                pass

        def checkout_theirs() -> None:
            with theirs.connection():
                pass

        checkout_ours()
        # Turn by turn, so that a noisy moment of the machine meets both.
        rounds = [
            (timeit.timeit(checkout_ours, number=NUMBER), timeit.timeit(checkout_theirs, number=NUMBER))
            for _ in range(ROUNDS)
        ]
        mine, peer = (statistics.median(column) / NUMBER * 1e6 for column in zip(*rounds, strict=True))
        ratios = sorted(a / b for a, b in rounds)
        print(f"lambda_pool, validated      {mine:6.2f} us")
        print(f"psycopg_pool, no check      {peer:6.2f} us")
        spread = f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"ratio (median of {ROUNDS})         {statistics.median(ratios):6.2f}   {spread}")
        ours.close()
        theirs.close()


if __name__ == "__main__":
    main()
