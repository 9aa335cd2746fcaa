"""The whole function: one connection for each environment, checked, reused, committed or rolled back."""

import lambda_pool


@lambda_pool.handler
def handler(event, context, conn):
    with conn.cursor() as cursor:
        cursor.execute("select now()")
        return str(cursor.fetchone()[0])
