"""A way to a server on which the answers can be lost."""

from __future__ import annotations

import threading
import time

from lambda_pool import Pool
from lambda_pool.testing import FaultyProxy
from tests.support.core import entries


class Line(FaultyProxy):
    """A way to a server that can be silenced. It notices if something is sent after that."""

    def __init__(self, port: int) -> None:
        self._sent = threading.Event()
        super().__init__("127.0.0.1", port, listen=lambda _: lambda _: self._sent.set())

    def silence(self) -> None:
        """From now on, whatever is sent arrives, but is never answered."""
        self.swallow("to_client", new=False)
        self._sent.clear()

    def wait_for_what_is_sent(self) -> None:
        """Wait until something was sent since then and somebody waits for its answer."""
        assert self._sent.wait(10)
        time.sleep(0.2)

    def lose(self, pool: Pool) -> threading.Thread:
        """Let the deadline end the next statement. Out: the thread that does that."""

        def cut() -> None:
            self.wait_for_what_is_sent()
            entries(pool)[0].link.abort(cancelled=True)

        self.silence()
        thread = threading.Thread(target=cut)
        thread.start()
        return thread
