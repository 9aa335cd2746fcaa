"""The search can fail: a leak planted in each kind of outlet, and in each form, is found."""

import base64
import functools
import logging
import secrets
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from lambda_pool.config import Url
from lambda_pool.record import Record
from lambda_pool.secret import Secret
from tests.unit.secrets.canaries import Canaries, canary, parts, search
from tests.unit.secrets.outlet import Outlet, load

PASSWORD = canary("planted")


class Value(Record):
    """Of a class of the package's kind."""

    password: str
    hidden: str = ""

    __module__ = "lambda_pool.planted"
    _hidden = frozenset({"hidden"})


def found(outlet: Outlet) -> list[str]:
    return search(Canaries({"password": PASSWORD}), outlet.gathered)


def raised(work: Callable[[], object]) -> BaseException:
    try:
        work()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def enclose(kept: str) -> Callable[[], str]:
    return lambda: kept


def elsewhere(source: str) -> Any:
    """A function whose frames are not those of these tests."""
    names: dict[str, Any] = {}
    exec(compile(source, "/elsewhere.py", "exec"), names)
    return names["work"]


HIDDEN = "def work(secret):\n try:\n  raise KeyError(secret)\n except KeyError:\n  raise ValueError('x') from None"
CHAINED = (
    "def work(secret):\n try:\n  raise KeyError(secret)\n except KeyError as error:\n  raise ValueError from error"
)
NOTED = "def work(secret):\n error = ValueError('x')\n error.add_note(secret)\n secret = ''\n raise error"
LOCAL = "def work(secret):\n raise ValueError('x')"
NESTED = "def work(secret):\n box = [{'a': secret}]\n secret = ''\n raise ValueError('x')"

PLANTED: dict[str, Callable[[Outlet], object]] = {
    "a library's DEBUG line": lambda outlet: logging.getLogger("urllib3.x").debug("sent %s", PASSWORD),
    "a line of a logger with a level of its own": lambda outlet: logging.getLogger("quiet").debug(PASSWORD),
    "a record's extra": lambda outlet: logging.getLogger("a").info("x", extra={"more": PASSWORD}),
    "a record's error": lambda outlet: logging.getLogger("a").info("x", exc_info=ValueError(PASSWORD)),
    "a warning": lambda outlet: warnings.warn(PASSWORD, stacklevel=1),
    "an error's text": lambda outlet: outlet.error(ValueError(PASSWORD)),
    "an error's attribute": lambda outlet: outlet.error(raised(lambda: PASSWORD.encode("ascii"))),
    "a hidden error": lambda outlet: outlet.error(raised(lambda: elsewhere(HIDDEN)(PASSWORD))),
    "a cause": lambda outlet: outlet.error(raised(lambda: elsewhere(CHAINED)(PASSWORD))),
    "a note": lambda outlet: outlet.error(raised(lambda: elsewhere(NOTED)(PASSWORD))),
    "a variable": lambda outlet: outlet.error(raised(lambda: elsewhere(LOCAL)(PASSWORD))),
    "a variable's contents": lambda outlet: outlet.error(raised(lambda: elsewhere(NESTED)(PASSWORD))),
    "a repr": lambda outlet: outlet.walk("x", Value(PASSWORD)),
    "an attribute that a repr hides": lambda outlet: outlet.walk("x", Value("", PASSWORD)),
    "a bound method": lambda outlet: outlet.walk("x", [Value("", PASSWORD).replace]),
    "a partial": lambda outlet: outlet.walk("x", functools.partial(print, PASSWORD)),
    "a closure": lambda outlet: outlet.walk("x", enclose(PASSWORD)),
    "a pickle": lambda outlet: outlet.copies("x", Value("", PASSWORD)),
    "JSON": lambda outlet: outlet.copies("x", {"a": PASSWORD}),
    "text": lambda outlet: outlet.write("x", f"before {PASSWORD} behind"),
    "URL-escaped": lambda outlet: outlet.write("x", quote(PASSWORD, safe="")),
    "escaped throughout": lambda outlet: outlet.write("x", "".join(f"%{byte:02X}" for byte in PASSWORD.encode())),
    "repr-escaped": lambda outlet: outlet.write("x", ascii(PASSWORD)),
    "hex": lambda outlet: outlet.write("x", PASSWORD.encode().hex()),
    "base64": lambda outlet: outlet.write("x", base64.b64encode(PASSWORD.encode())),
    "base64 of more": lambda outlet: outlet.write("x", base64.urlsafe_b64encode(f"ab{PASSWORD}c".encode())),
    "base64 of a login": lambda outlet: outlet.write("x", base64.b64encode(f"u{PASSWORD}".encode())),
    "UTF-16": lambda outlet: outlet.write("x", PASSWORD.encode("utf-16")),
    "a half": lambda outlet: outlet.write("x", PASSWORD[len(PASSWORD) // 2 :]),
    "the other half": lambda outlet: outlet.write("x", PASSWORD[: len(PASSWORD) // 2]),
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_a_planted_leak_is_found(plant: Callable[[Outlet], object]) -> None:
    logging.getLogger("quiet").setLevel(logging.ERROR)
    outlet = Outlet()
    with outlet.listening():
        plant(outlet)
    assert found(outlet)


@pytest.mark.parametrize("where", ["arguments", "environment"])
def test_of_a_process(where: str) -> None:
    outlet = Outlet()
    command = [sys.executable, "-c", "print(); input()", *([PASSWORD] if where == "arguments" else [])]
    environment = {"A": PASSWORD if where == "environment" else ""}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        child.stdout.readline()  # until then it may be a copy of this process
        outlet.process(child.pid)
        child.communicate(b"\n", timeout=30)
    assert found(outlet)


def test_of_files(tmp_path: Path) -> None:
    outlet = Outlet()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_text(PASSWORD)
    outlet.files(tmp_path)
    assert found(outlet)


def test_half_a_tokens_signature_is_found() -> None:
    signature = secrets.token_hex(32)
    token = f"host:5432/?Action=connect&X-Amz-Signature={signature}"
    assert len(parts(signature)) == 2
    for leak in (token, quote(token, safe=""), signature[:32], signature[32:]):
        assert Canaries({"token": signature}).found_in(leak.encode())
    assert Canaries({}).found_in(token.encode()), "any signature, of a token that nobody told of"


def test_what_is_well_is_not_found() -> None:
    outlet = Outlet()
    url = Url(engine="mysql", password=Secret(PASSWORD))
    with outlet.listening():
        outlet.walk("url", url)
        outlet.copies("url", url)
        logging.getLogger("a").debug("%s", url)
    assert len(outlet.gathered) > 5
    assert found(outlet) == []


def test_what_was_saved_is_what_is_searched(tmp_path: Path) -> None:
    outlet = Outlet()
    outlet.write("kind", b"\x00\xff" + PASSWORD.encode())
    with (tmp_path / "gathered").open("w") as file:
        outlet.save(file)
    with (tmp_path / "gathered").open() as lines:
        assert list(load(lines)) == outlet.gathered


def test_a_canary_that_tells_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no piece"):
        Canaries({"short": "a:b"})
