"""A test that fails takes no other with it."""

import signal
import threading

import pytest

from lambda_pool.testing.server import Server
from tests.on_lambda.databases import Database


def test_a_request_that_is_left_fails_one_test_alone(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from tests.conftest import _no_request_is_left")
    pytester.makepyfile(
        """
        from lambda_pool.request import begin

        def test_that_leaves_its_request():
            begin(None)

        def test_after_it():
            pass
        """
    )
    pytester.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=2, errors=1)


def test_a_question_that_is_interrupted_leaves_the_next_one_its_answer(server: Server) -> None:
    """As by a test's time limit."""
    database = Database(server)

    class Interrupted(Exception):
        pass

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    main = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        timer = threading.Timer(0.5, signal.pthread_kill, [main, signal.SIGUSR1])
        timer.start()
        with pytest.raises(Interrupted):
            database.execute(database.sleeper)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert database.execute("select 42") == [(42,)]
    database.close()
