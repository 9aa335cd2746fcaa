"""Translates the tests' statements from MariaDB's dialect to that of genuine MySQL."""

import re

from lambda_pool.testing import MySqlServer

_RENAMED = {"tx_isolation": "transaction_isolation", "tx_read_only": "transaction_read_only"}
_REPLACING = re.compile(r"^\s*create or replace (procedure|function|table|user|view) (\S+?)(?=[\s(])", re.IGNORECASE)


def as_mysql(sql: str) -> list[str]:
    """The statements that do the same there."""
    for old, new in _RENAMED.items():
        sql = re.sub(rf"\b{old}\b", new, sql)
    sql = sql.replace("current_role()", "nullif(replace(substring_index(current_role(), '@', 1), '`', ''), 'NONE')")
    sql = sql.replace("backup stage start", "lock instance for backup")
    sql = sql.replace("create or replace /* x */ temporary", "create /* x */ temporary")
    replacing = _REPLACING.match(sql)
    if replacing is None:
        return [sql]
    return [
        f"drop {replacing[1]} if exists {replacing[2]}",
        re.sub("create or replace", "create", sql, count=1, flags=re.IGNORECASE),
    ]


def make_sequences(server: MySqlServer) -> None:
    """The tables of numbers that MariaDB has built in."""
    server.execute("set global cte_max_recursion_depth = 10000")
    for first, last in ((1, 3), (1, 50), (1, 100), (1, 1000), (1, 4000), (1, 5000), (1000, 1100)):
        server.execute(
            f"create table seq_{first}_to_{last} with recursive numbers (seq) as"
            f" (select {first} union all select seq + 1 from numbers where seq < {last}) select seq from numbers"
        )
