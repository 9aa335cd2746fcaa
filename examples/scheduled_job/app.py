"""A scheduled job in one transaction, which is played again when it collides with others or loses its connection.

`run` replays only what was surely not committed, so that no day is ever counted twice. Everything in `settle` must be
in the database: it may be called more than once. So may the job, because a schedule's event can come twice.
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
        # The one case that nobody can decide from here: the next run finds what is left, if anything is.
        return {"uncertain": True}
