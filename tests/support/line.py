"""A way to a server on which the answer to what is sent can be lost."""

from __future__ import annotations

import threading
import time

from lambda_pool import Pool
from lambda_pool.testing import FaultyProxy
from tests.support.core import entries


class Line(FaultyProxy):
    """A way to a server that can be silenced; it knows when something was sent after that."""

    def __init__(self, port: int) -> None:
        self._sent = threading.Event()
        super().__init__("127.0.0.1", port, listen=lambda _: lambda _: self._sent.set())

    def silence(self) -> None:
        """What is sent from now on arrives, and is never answered."""
        self.swallow("to_client", new=False)
        self._sent.clear()

    def wait_for_what_is_sent(self) -> None:
        """Until something was sent since then, and is waited for."""
        assert self._sent.wait(10)
        time.sleep(0.2)

    def lose(self, pool: Pool) -> threading.Thread:
        """The deadline ends what is sent from now on. Out: the thread that does that."""

        def cut() -> None:
            self.wait_for_what_is_sent()
            entries(pool)[0].link.abort(cancelled=True)

        self.silence()
        thread = threading.Thread(target=cut)
        thread.start()
        return thread
