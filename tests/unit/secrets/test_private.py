"""What a secret is wrapped in, and what is left of an error that passed a private function."""

import copy
import json
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from lambda_pool.secret import Secret, SecretMapping, private

PASSWORD = "hüsh-hush"  # not in any line of code below, which a traceback shows too
WRAPPED = [Secret("hush-hush"), SecretMapping({"password": "hush-hush", "row_factory": tuple})]


@pytest.mark.parametrize("wrapped", WRAPPED, ids=["secret", "mapping"])
class TestWrapped:
    def test_prints_stars(self, wrapped: object) -> None:
        for shown in (repr(wrapped), str(wrapped), f"{wrapped}", f"{[wrapped]}", "%s %r" % (wrapped, wrapped)):  # noqa: UP031
            assert "***" in shown
            assert "hush" not in shown

    @pytest.mark.parametrize(
        "way", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, lambda wrapped: wrapped.__getstate__()]
    )
    def test_is_copied_in_no_way(self, wrapped: object, way: Callable[[object], object]) -> None:
        with pytest.raises(TypeError) as caught:
            way(wrapped)
        assert "hush" not in str(caught.value)


def test_a_mapping_is_one() -> None:
    mapping = SecretMapping({"a": 1, "b": 2})
    assert dict(mapping) == {"a": 1, "b": 2} == mapping
    assert (len(mapping), list(mapping), mapping["a"], {**mapping}) == (
        2,
        ["a", "b"],
        1,
        {"a": 1, "b": 2},
    )
    assert repr(mapping) == "{'a': ***, 'b': ***}"


def fail(password: str) -> None:
    inner = password + "!"
    raise ValueError(len(inner))


def hide(password: str) -> None:
    try:
        password.encode("ascii")
    except UnicodeError:
        raise KeyError("hidden") from None


def chain(password: str) -> None:
    try:
        fail(password)
    except ValueError as error:
        raise KeyError("chained") from error


def shown(error: BaseException) -> str:
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


@pytest.mark.parametrize("function", [fail, hide, chain])
def test_variables_are_gone_and_lines_stay(function: Callable[[str], None]) -> None:
    with pytest.raises((ValueError, KeyError)) as bare:
        function(PASSWORD)
    assert PASSWORD in shown(bare.value)
    with pytest.raises((ValueError, KeyError)) as caught:
        private(function)(PASSWORD)
    assert PASSWORD not in shown(caught.value)
    assert f"in {function.__name__}" in shown(caught.value)


def test_a_hidden_error_is_dropped() -> None:
    with pytest.raises(KeyError) as caught:
        private(hide)(PASSWORD)
    assert caught.value.__context__ is None  # it quotes what could not be encoded


def test_the_callers_own_error_is_left_alone() -> None:
    def users_own(mine: str) -> None:
        raise RuntimeError(mine)

    with pytest.raises(ValueError, match=str(len(PASSWORD) + 1)) as caught:
        try:
            users_own("my variable")
        except RuntimeError:
            private(fail)(PASSWORD)
    own: Any = caught.value.__context__
    assert isinstance(own, RuntimeError)
    assert "'my variable'" in shown(own)


def test_an_interrupt_too() -> None:
    def interrupted(password: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        private(interrupted)(PASSWORD)
    assert PASSWORD not in shown(caught.value)
