"""Long runs: the ledger with a seed and a length that you choose, and the soak."""

import argparse
import sys
from collections.abc import Sequence

from .ledger import Ledger, run
from .schedule import WAYS, Act, faults, invocations, make_schedule
from .soak import Meter, excess, growth
from .table import render

KIB = 2048
"""What an environment's memory may grow by from the first half of a soak to the second."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("kind", choices=["ledger", "soak"])
    parser.add_argument("engine", choices=["postgresql", "mysql", "both"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--invocations", type=int, default=0)
    arguments = parser.parse_args()
    engines = ["postgresql", "mysql"] if arguments.engine == "both" else [arguments.engine]
    play = _soak if arguments.kind == "soak" else _ledger
    return max([play(engine, arguments.seed, arguments.invocations) for engine in engines])


def _ledger(engine: str, seed: int, count: int) -> int:
    acts = make_schedule(seed, count or 20_000)
    ledger = _play(engine, seed, acts, None)
    return _judge(ledger)


def _soak(engine: str, seed: int, count: int) -> int:
    acts = make_schedule(seed, count or 100_000, share=0.05, steps=100, deaths=False)
    meter = Meter(every=500)
    ledger = _play(engine, seed, acts, meter)
    found = growth(meter.samples)
    print("\n".join(map(str, found)))
    too_much = excess(found, kib=KIB)
    for one in too_much:
        print(f"GREW: {one}")
    return max(_judge(ledger), bool(too_much))


def _play(engine: str, seed: int, acts: Sequence[Act], meter: Meter | None) -> Ledger:
    print(f"{engine}, seed {seed}: {invocations(acts)} invocations and {faults(acts)} faults to come", flush=True)
    ledger = run(engine, acts, WAYS, watch=meter)
    print(render(ledger), flush=True)
    return ledger


def _judge(ledger: Ledger) -> int:
    try:
        ledger.check()
    except AssertionError as broken:
        print(f"BROKEN: {broken}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
