"""Counting in the servers' logs."""

from __future__ import annotations

from lambda_pool.cli.demo.traffic import Traffic, of_mariadb, of_postgres

POSTGRES = """\
2026-11-20 19:09:11.054 UTC [12624] [unknown]@[unknown] LOG:  connection received: host=127.0.0.1 port=56292
2026-11-20 19:09:11.058 UTC [12624] ours@postgres LOG:  connection authenticated: identity="ours" method=scram-sha-256
2026-11-20 19:09:11.058 UTC [12624] ours@postgres LOG:  connection authorized: user=ours database=postgres
2026-11-20 19:09:11.060 UTC [12625] other@postgres LOG:  connection authorized: user=other database=postgres
2026-11-20 19:09:11.063 UTC [12624] ours@postgres LOG:  statement: BEGIN
2026-11-20 19:09:11.064 UTC [12624] ours@postgres LOG:  execute <unnamed>: insert into orders (item) values ($1)
2026-11-20 19:09:11.064 UTC [12624] ours@postgres DETAIL:  Parameters: $1 = 'statement: x'
2026-11-20 19:09:11.064 UTC [12624] ours@postgres LOG:  execute _pg3_0: update stock set on_hand = 1
2026-11-20 19:09:11.065 UTC [12625] other@postgres LOG:  statement: select 1
2026-11-20 19:09:11.064 UTC [12624] ours@postgres LOG:  statement: COMMIT
"""
EXTRA = """\
2026-11-20 19:09:12.064 UTC [12624] ours@postgres LOG:  statement: {statement}
"""

MARIADB = """\
/usr/sbin/mariadbd, Version: 10.11.19-MariaDB-0+deb12u1-log (Debian 12). started with:
Tcp port: 52343  Unix socket: /tmp/x/run/socket
Time\t\t    Id Command\tArgument
261120  9:08:43\t     4 Connect\tours@127.0.0.1 on ours using SSL/TLS
\t\t     4 Query\tSET AUTOCOMMIT = 0
\t\t     5 Connect\tother@127.0.0.1 on other using SSL/TLS
\t\t     5 Query\tselect 1
261120 19:08:43\t     4 Query\tinsert into orders (item) values ('a')
\t\t     4 Query\tCOMMIT
\t\t     4 Quit\t
"""


def test_postgres_counts_connections_of_this_user() -> None:
    assert of_postgres(POSTGRES, "ours") == Traffic(connections=1, extra=0)
    assert of_postgres(POSTGRES, "other") == Traffic(connections=1, extra=1)
    assert of_postgres(POSTGRES, "our") == Traffic()


def test_postgres_counts_pings_and_set_up() -> None:
    for statement in ("", "SELECT 1", "DEALLOCATE ALL", "SET x = 1", "update other set a = 1", "beginning"):
        assert of_postgres(POSTGRES + EXTRA.format(statement=statement), "ours").extra == 1, statement


def test_mariadb_counts_by_thread() -> None:
    assert of_mariadb(MARIADB, "ours") == Traffic(connections=1, extra=1)
    assert of_mariadb(MARIADB, "other") == Traffic(connections=1, extra=1)
    assert of_mariadb(MARIADB, "our") == Traffic()


def test_mariadb_threads_start_again_after_a_restart() -> None:
    first, *_ = MARIADB.splitlines(keepends=True)
    again = MARIADB + first + "\t\t     4 Connect\tother@127.0.0.1 on other\n\t\t     4 Query\tselect 2\n"
    assert of_mariadb(again, "ours") == Traffic(connections=1, extra=1)
    assert of_mariadb(again, "other") == Traffic(connections=2, extra=2)


def test_mariadb_resets_and_changes_of_database_are_extra() -> None:
    more = "\t\t     4 Init DB\tours\n\t\t     4 Reset connection\t\n"
    log = MARIADB.replace("\t\t     4 Quit\t\n", more)
    assert of_mariadb(log, "ours").extra == 3
