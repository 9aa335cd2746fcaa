"""A process that invokes one way's handler so many times: what valgrind counts the instructions of."""

import os
import sys

from .round_trips import Context
from .ways import WAYS

WARM_UP = 10


def main() -> None:
    """Arguments: the way, the engine, the kind of work, how many invocations. The URL is in the environment."""
    name, engine, work, number = sys.argv[1:]
    way = WAYS[name](engine, os.environ["URL"], autocommit=False)
    context = Context()
    for _ in range(WARM_UP):
        way.handler({"work": "one"}, context)
        way.handler({"work": "empty"}, context)
    event = {"work": work}
    for _ in range(int(number)):
        way.handler(event, context)
    # Without good-byes, whose course depends on the time.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
