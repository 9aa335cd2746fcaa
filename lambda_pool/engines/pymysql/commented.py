"""A connection of PyMySQL that ends each statement with a comment. Imported only with `trace_comment`."""

from functools import cache
from typing import Any

from ..traceparent import with_comment, with_comment_in_bytes


@cache
def commented(base: Any) -> Any:
    """A class of connections. They add it in the last moment: `executemany` looks at how a statement ends."""

    class Commented(base):  # type: ignore[misc]
        ours = False
        """It sends what the pool says."""

        def run_setup(self) -> None:
            self.ours = True
            try:
                super().run_setup()
            finally:
                self.ours = False

        def query(self, sql: Any, unbuffered: bool = False) -> int:
            if not self.ours:
                sql = with_comment(sql) if isinstance(sql, str) else with_comment_in_bytes(bytes(sql))
            return int(super().query(sql, unbuffered))

    Commented.__name__ = Commented.__qualname__ = base.__name__
    return Commented
