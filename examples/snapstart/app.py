"""SnapStart: the connection is closed before the snapshot is taken, and every restored clone opens a new one.

Without `warm()` the first invocation of each clone would connect. With `warm()` that happens during restore, which has
ten seconds. If it fails there, the first invocation tries again.
"""

import lambda_pool

orders = lambda_pool.Pool()
orders.warm()


@orders.handler
def handler(event, context, conn):
    [backend] = conn.execute("select pg_backend_pid()").fetchone()
    return {"backend": backend, "opened": orders.stats().opened}
