"""Reads from an Aurora cluster's readers, writes to its writer: LAMBDA_POOL_AURORA_CLUSTER names the cluster.

It uses two connections, so an environment that reads and writes keeps both. A read may be some milliseconds behind a
write.
"""

import lambda_pool

orders = lambda_pool.Pool(max_size=2)


@orders.handler
def handler(event, context):
    if event.get("article"):
        with orders.connection() as conn:
            conn.execute("insert into orders (article) values (%s)", [event["article"]])
            return {"host": conn.info.host}
    with orders.connection(readonly=True) as conn:
        rows = conn.execute("select article from orders order by number").fetchall()
        return {"host": conn.info.host, "articles": [article for (article,) in rows]}
