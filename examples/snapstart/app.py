"""SnapStart: the connection of the snapshot is closed before it is taken, and opened anew in every restored clone.

Without `warm()` the first invocation of each clone would connect; with it, that happens during restore, which has ten
seconds for it. If it fails there, the first invocation tries again.
"""

import lambda_pool

orders = lambda_pool.Pool()
orders.warm()


@orders.handler
def handler(event, context, conn):
    [backend] = conn.execute("select pg_backend_pid()").fetchone()
    return {"backend": backend, "opened": orders.stats().opened}
