"""The rules of the house that are counted: sizes and public names."""

import ast
from functools import cache

import psycopg
import pymysql
import pytest

import lambda_pool
from lambda_pool.engines.base import EngineConnection
from tests.house.test_imports import MODULES

MOST_LINES = 450
MOST_NAMES = 20  # public ones of a class
MOST_MEMBERS = 14  # of what the pool asks of a connection

# What a user may call. `from_env` builds one; the rest is used.
CONTRACT = {"close", "config", "connection", "from_env", "handler", "name", "run", "stats", "step", "warm"}


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
    drivers = {base for driver in (psycopg.Connection, pymysql.connections.Connection) for base in dir(driver)}
    overridden = drivers if name.startswith("engines.") else set()
    public = {
        member.name
        for member in node.body
        if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and not member.name.startswith("_")
    }
    assert len(public - overridden) <= MOST_NAMES


def test_a_pool_shows_its_contract_and_nothing_else() -> None:
    assert {name for name in dir(lambda_pool.Pool) if not name.startswith("_")} == CONTRACT


def test_the_protocol_of_engines_is_small() -> None:
    members = {name for name in vars(EngineConnection) if not name.startswith("_")}
    assert len(members) <= MOST_MEMBERS
