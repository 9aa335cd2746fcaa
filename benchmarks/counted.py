"""A process that invokes one way's handler: what valgrind counts the instructions and the cache lines of."""

import gc
import os
import sys

from .round_trips import Context
from .ways import WAYS

WARM_UP = 10
WATCHED = "watched"
READY, DONE = b"\nready\n", b"\ndone\n"


def main() -> None:
    """Arguments: the way, the engine, the kind of work, how many invocations. The URL is in the environment.

    "watched" instead of a number: one invocation; before and after it a word on the output, and a wait for any byte.
    """
    name, engine, work, number = sys.argv[1:]
    way = WAYS[name](engine, os.environ["URL"], autocommit=False)
    context = Context()
    for _ in range(WARM_UP):
        way.handler({"work": "one"}, context)
        way.handler({"work": "empty"}, context)
    event = {"work": work}
    if number == WATCHED:
        for _ in range(2 * WARM_UP):
            way.handler(event, context)
        gc.collect()
        gc.disable()
        way.handler(event, context)
        os.write(1, READY)
        os.read(0, 1)
        way.handler(event, context)
        os.write(1, DONE)
        os.read(0, 1)
    else:
        for _ in range(int(number)):
            way.handler(event, context)
    # Without good-byes, whose course depends on the time.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
