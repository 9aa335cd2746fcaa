"""The smallest function, on both engines."""

from datetime import datetime


def test_it_tells_the_time(call):
    assert datetime.fromisoformat(call()).year >= 2025


def test_on_mysql(lambda_runtime, mysql_server, folder):
    function = lambda_runtime("app.handler", code_dir=folder, env={"LAMBDA_POOL_URL": mysql_server.url()})
    assert datetime.fromisoformat(function.invoke({}).payload).year >= 2025


def test_a_connection_that_the_server_ended_is_replaced(call, database):
    call()
    call.runtime.freeze()
    database.end_sessions()
    call.runtime.thaw()
    assert datetime.fromisoformat(call()).year >= 2025
