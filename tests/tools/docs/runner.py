"""Runs the Python blocks of one page, in order and in one namespace, against real servers.

    python -m tests.tools.docs.runner PAGE POSTGRES_URL MYSQL_URL

A URL of a host in `.example` is replaced by that of a server, and who logs in and where it leads are then left out: the
objects are made, and so checked, but there is no such proxy. A block that defines `handler` has it called. What pages
take for granted (an order in the event, a function `transfer`, …) is here.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import lambda_pool
from tests.tools.docs.blocks import ROOT, blocks


class Event(dict[str, Any]):
    """An event with everything that the pages' handlers ask for, and a different id each time."""

    ids = iter(range(1_000, 2_000))

    def __init__(self) -> None:
        number = next(self.ids)
        super().__init__(
            id=number,
            article=f"tea {number}",
            amount=1,
            Records=[{"messageId": f"m{number}", "body": '{"article": "tea", "amount": 1}'}],
            pathParameters={"article": "tea"},
            version="2.0",
            rawPath="/orders",
            rawQueryString="",
            headers={"host": "localhost"},
            requestContext={"http": {"method": "GET", "path": "/orders", "sourceIp": "127.0.0.1"}},
            isBase64Encoded=False,
        )


class Context:
    """Lambda's context, as far as anybody looks at it."""

    aws_request_id = "11111111-2222-3333-4444-555555555555"
    function_name = "function"
    function_version = "1"
    memory_limit_in_mb = "512"
    invoked_function_arn = "arn:aws:lambda:eu-central-1:123456789012:function:function"

    def get_remaining_time_in_millis(self) -> int:
        """A long time."""
        return 60_000


def lead_to(urls: dict[str, str]) -> None:
    """Let pools at hosts in `.example` lead to the real servers."""
    make = lambda_pool.Pool.__init__

    def init(self: lambda_pool.Pool, url: str | None = None, **arguments: Any) -> None:
        if url is not None and ".example" in url:
            url = urls["mysql" if url.startswith("mysql") else "postgresql"]
            lambda_pool.Pool(url, **arguments)  # checked as it stands …
            arguments.pop("auth", None)  # … and then used without what is not there
            arguments.pop("endpoint", None)
        make(self, url, **arguments)

    real = lambda_pool.Pool
    real.__init__ = init  # type: ignore[method-assign]


def names() -> dict[str, Any]:
    """What a page takes for granted."""
    from aws_lambda_powertools import Metrics

    from tests.support.memory_store import MemoryStore

    return {
        "__name__": "page",
        "AsyncPool": lambda_pool.AsyncPool,
        "Pool": lambda_pool.Pool,
        "lambda_pool": lambda_pool,
        "orders": lambda_pool.Pool(),
        "transfer": lambda conn: conn.execute("select 1").fetchone(),
        "answer": lambda event, context, error: {"statusCode": 503},
        "metrics": Metrics(namespace="shop", service="orders"),
        "store": MemoryStore(),
    }


def main(page: Path, postgres: str, mysql: str) -> int:
    """Run the page. Returns 1 at the first block that fails, and says where."""
    os.environ["LAMBDA_POOL_URL"] = postgres
    os.environ |= {"DB_HOST": "db.example", "DB_PORT": "5432", "DB_USER": "app", "DB_PASSWORD": "p@ss/word"}
    sys.path.insert(0, str(ROOT / "examples" / "django"))  # what the page on Django takes for the user's project
    lead_to({"postgresql": postgres, "mysql": mysql})
    namespace = names()
    for block in blocks(page):
        if block.language != "python":
            continue
        before = namespace.get("handler")
        code = "\n" * (block.line - 1) + block.code
        try:
            exec(compile(code, str(page), "exec"), namespace)
            handler = namespace.get("handler")
            if handler is not before and callable(handler):
                handler(Event(), Context())
        except Exception:  # whatever it is, the page is wrong
            traceback.print_exc()
            print(f"{block.name} failed", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
