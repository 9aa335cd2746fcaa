"""A streaming standby of a PostgresServer, made with pg_basebackup, which can be promoted."""

import time

from lambda_pool.testing import PostgresServer

_SECONDS = 30.0


def primary() -> PostgresServer:
    """A server from which a standby can be made."""
    # Commits are sent at once: by the test servers' default they stay in memory for up to 0.6 s.
    return PostgresServer(
        hba=["host replication all 127.0.0.1/32 scram-sha-256"], extra_config=["synchronous_commit = on"]
    )


class StandbyServer(PostgresServer):
    """A copy of `primary` that follows it, with its users, passwords and certificate. The primary must be running."""

    ready_text = "database system is ready to accept read-only connections"

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__(password=primary.password)
        self._primary = primary

    def _install(self) -> None:
        assert self._folder is not None
        self._binaries = self._reachable_binaries()
        source = f"host=127.0.0.1 port={self._primary.port} user={self.user} password={self.password}"
        quick = ["--checkpoint=fast", "--no-sync", "--wal-method=stream"]
        where = ["--pgdata", str(self._data), "--dbname", source, "--write-recovery-conf"]
        self._run([str(self._binaries / "pg_basebackup"), *where, *quick])
        with (self._data / "postgresql.conf").open("a") as file:
            # If the primary is gone, promoting waits for the next attempt to reach it.
            file.write(f"unix_socket_directories = '{self._folder / 'run'}'\nwal_retrieve_retry_interval = 50\n")
        # Both have the same authority, because a client knows only one.
        self._certificates = self._primary._certificates

    def follow(self) -> None:
        """Wait until the standby has replayed everything that the primary has written so far."""
        [(position,)] = self._primary.execute("select pg_current_wal_flush_lsn()::text")
        until = time.monotonic() + _SECONDS
        while self.execute(f"select pg_last_wal_replay_lsn() < '{position}'::pg_lsn") != [(False,)]:
            assert time.monotonic() < until, "the standby does not follow"
            time.sleep(0.01)

    def promote(self) -> None:
        """Make it the writer; returns when that is done."""
        [(done,)] = self.execute(f"select pg_promote(true, {_SECONDS:.0f})")
        assert done, "the standby was not promoted in time"
        self.ready_text = PostgresServer.ready_text  # type: ignore[misc]
