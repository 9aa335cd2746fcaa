"""A writer whose commits reach a second server before they are acknowledged, and that server, which takes over."""

import time
from pathlib import Path
from typing import Any

from lambda_pool.testing import MariaDbServer, PostgresServer
from tests.support.standby import StandbyServer

_SECONDS = 30.0
# A commit waits for the other server's answer without a limit: nothing acknowledged can be missing there.
_PATIENT = ["--rpl-semi-sync-master-wait-point=AFTER_SYNC", "--rpl-semi-sync-master-timeout=86400000"]


def writer(engine: str, slots: int) -> PostgresServer | MariaDbServer:
    """A server that can be followed."""
    if engine == "postgresql":
        return PostgresServer(hba=["host replication all 127.0.0.1/32 scram-sha-256"], max_connections=slots)
    return MariaDbServer(extra_config=["--server-id=1", "--log-bin=log", *_PATIENT], max_connections=slots)


class _Replica(MariaDbServer):
    """A MariaDB with its writer's certificate and password."""

    def __init__(self, writer: MariaDbServer, slots: int) -> None:
        options = ["--server-id=2", "--log-bin=log", "--rpl-semi-sync-slave-enabled=ON"]
        super().__init__(extra_config=options, password=writer.password, max_connections=slots)
        self._writer = writer

    def _certify(self, folder: Path) -> None:
        self._certificates = self._writer._certificates


class Successor:
    """The second server. Made right after the first has started, it follows from `follow` on."""

    def __init__(self, writer: PostgresServer | MariaDbServer, slots: int) -> None:
        self._writer = writer
        self.server: Any
        if isinstance(writer, PostgresServer):
            self.server = StandbyServer(writer)
        else:
            self.server = _Replica(writer, slots)
            [(self._position,)] = writer.execute("select @@gtid_current_pos")

    def follow(self) -> None:
        """Start it; returns when commits wait for it."""
        self.server.start()
        if isinstance(self._writer, PostgresServer):
            self._writer.execute("alter system set synchronous_standby_names = '*'")
            self._writer.execute("select pg_reload_conf()")
            self._until(self._writer, "select sync_state from pg_stat_replication", [("sync",)])
            return
        # The user root, which may do everything, and a certificate that nobody checks.
        self.server.execute(f"set global gtid_slave_pos = '{self._position}'")
        self.server.execute(
            f"change master to master_host = '127.0.0.1', master_port = {self._writer.port}, master_user = 'root', "
            f"master_password = '{self._writer.password}', master_use_gtid = slave_pos, master_connect_retry = 1"
        )
        self.server.execute("start slave")
        self._writer.execute("set global rpl_semi_sync_master_enabled = 1")
        for name, value in (("Rpl_semi_sync_master_clients", "1"), ("Rpl_semi_sync_master_status", "ON")):
            self._until(self._writer, f"show status like '{name}'", [(name, value)])

    def take_over(self) -> None:
        """Become the writer, with everything that was received. The old writer must be gone."""
        if isinstance(self.server, StandbyServer):
            self.server.promote()
            return
        self.server.execute("stop slave io_thread")
        self._until_applied()
        self.server.execute("stop slave")
        self.server.execute("reset slave all")

    def _until_applied(self) -> None:
        last = time.monotonic() + _SECONDS
        while True:
            [status] = self.server.execute("show slave status")
            if any("Slave has read all relay log" in str(field) for field in status):
                return
            assert time.monotonic() < last, f"the second server does not get to the end: {status}"
            time.sleep(0.01)

    def _until(self, server: Any, question: str, answer: list[tuple[Any, ...]]) -> None:
        last = time.monotonic() + _SECONDS
        while (found := server.execute(question)) != answer:
            assert time.monotonic() < last, f"{question}: {found}"
            time.sleep(0.02)
