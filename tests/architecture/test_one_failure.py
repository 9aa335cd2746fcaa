"""A test that fails takes no other with it."""

import pytest


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
