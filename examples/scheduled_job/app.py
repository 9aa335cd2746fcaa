"""A scheduled job in one transaction, which is replayed if it collides with others or loses its connection.

`run` replays only a transaction that was certainly not committed, so that no day is ever counted twice. `settle` may be
called more than once, so everything that it does must be in the database. The job may run more than once too, because a
schedule's event can come twice.
"""

import lambda_pool

orders = lambda_pool.Pool(timeout=20)


def settle(conn):
    conn.execute("set transaction isolation level serializable")
    row = conn.execute("select coalesce(sum(amount), 0), count(*) from orders where not settled").fetchone()
    answer = {"amount": str(row[0]), "orders": row[1]}  # as text: JSON has no decimals that keep their cents
    if row[1] == 0:
        return answer
    conn.execute("update orders set settled = true where not settled")
    conn.execute("insert into settlements (amount, orders) values (%s, %s)", row)
    return answer


@orders.handler
def handler(event, context):
    try:
        return orders.run(settle, attempts=5)
    except lambda_pool.CommitUncertain:
        # The one case that cannot be decided here: the next run finds what is left, if anything.
        return {"uncertain": True}
