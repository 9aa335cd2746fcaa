"""The rules of the house that are counted: sizes, public names, and that every wait goes through one seam."""

import ast
from functools import cache
from pathlib import Path

import psycopg
import pymysql
import pytest

import lambda_pool
from lambda_pool.engines.base import EngineConnection
from tests.architecture.test_imports import MODULES

MOST_LINES = 450
MOST_NAMES = 20  # public ones of a class
MOST_MEMBERS = 14  # of what the pool asks of a connection

# What a user may call. `from_env` builds one; the rest is used.
CONTRACT = {"close", "config", "connection", "from_env", "handler", "name", "run", "stats", "warm"}

# Calls that wait. A tool on the command line, and the runners for tests, may wait as they like.
WAITS = {"sleep", "select", "poll", "epoll"}
SEAM = {"waiting", "aio.waits", "aio.generators"}
NOT_THE_POOL = ("cli", "testing")


@pytest.mark.parametrize("name", MODULES)
def test_no_file_is_too_long(name: str) -> None:
    assert len(MODULES[name].read_text().splitlines()) <= MOST_LINES


@cache
def classes() -> dict[str, ast.ClassDef]:
    """Every class of the package, by `module.Class`."""
    found = {}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found[f"{name}.{node.name}"] = node
    return found


@pytest.mark.parametrize("name", classes())
def test_no_class_has_too_many_public_names(name: str) -> None:
    """Of its own: a driver's subclass also overrides some of the driver's."""
    node = classes()[name]
    known = psycopg.Connection, pymysql.connections.Connection, pymysql.cursors.Cursor
    drivers = {base for driver in known for base in dir(driver)}
    overridden = drivers if name.startswith("engines.") else set()
    public = {
        member.name
        for member in node.body
        if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and not member.name.startswith("_")
    }
    assert len(public - overridden) <= MOST_NAMES


@pytest.mark.parametrize(("pool", "more"), [(lambda_pool.Pool, {"step"}), (lambda_pool.AsyncPool, set())])
def test_a_pool_shows_its_contract_and_nothing_else(pool: type, more: set[str]) -> None:
    assert {name for name in dir(pool) if not name.startswith("_")} == CONTRACT | more


def test_the_protocol_of_engines_is_small() -> None:
    members = {name for name in vars(EngineConnection) if not name.startswith("_")}
    assert len(members) <= MOST_MEMBERS


def waits(path: Path) -> list[str]:
    """The calls of a module that wait: `line: name`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        timed = called == "acquire" and any(keyword.arg == "timeout" for keyword in node.keywords)
        # libpq's own `poll()` of a request to cancel waits for nothing, and is told apart by having no time-out; the
        # seam's function of that name is called by its name alone.
        seams = isinstance(node.func, ast.Name) and called == "poll"
        if (called in WAITS and node.args and not seams) or timed:
            found.append(f"{node.lineno}: {called}")
    return found


@pytest.mark.parametrize(
    "name", [name for name in MODULES if name not in SEAM and name.partition(".")[0] not in NOT_THE_POOL]
)
def test_every_wait_goes_through_the_seam(name: str) -> None:
    assert waits(MODULES[name]) == []


def test_the_look_for_waits_finds_those_of_the_seam() -> None:
    assert {text.partition(": ")[2] for name in SEAM for text in waits(MODULES[name])} == {"acquire", "poll", "sleep"}
