"""What the text of a statement tells costs little, however long that is: a function may have 128 MiB in all."""

import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg import sql

from lambda_pool.engines.psycopg import statements

LONG = "x" * 1_000_000


@pytest.mark.parametrize("written", [f"'{LONG}'", f"e'{LONG}'", f'"{LONG}"', f"$$ {LONG} $$", f"/* {LONG} */ 1"])
def test_a_long_text_in_a_statement_takes_no_memory_for_each_character(written: str) -> None:
    text = f"select {written}; commit"
    tracemalloc.start()
    try:
        assert statements.commits(text)
        assert statements.may_commit(text)
        assert statements.ends_transaction(text)
        assert not statements.changes_session(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("select 'it''s; commit'", False),
        (r"select e'it\'s; commit'", False),
        (r"select e'\\'; commit", True),
        ("select 'a''b'; commit", True),
        ('select "a""; commit"', False),
        ('select "a""b"; commit', True),
        (r"select '\'; commit", True),
        ("select ''; commit", True),
    ],
)
def test_a_quote_in_quotes_does_not_end_them(text: str, found: bool) -> None:
    assert statements.commits(text) is found


def template(*parts: Any) -> Any:
    """Like a template string of Python 3.14: texts, each followed by a value and its format."""
    values = [
        SimpleNamespace(value=value, format_spec=spec) for value, spec in zip(parts[1::3], parts[2::3], strict=True)
    ]
    return SimpleNamespace(strings=parts[::3], interpolations=tuple(values))


def test_a_template_string_is_read_with_what_is_put_into_it() -> None:
    setting = template("set_config('app.tenant', ", "secret", "", ", false)")
    query = template(
        "select ", setting, "q", ", ", "my col", "i", " from ", sql.Identifier("t"), "i", " -- ", 5, "l", ""
    )
    assert statements.statement(query) == """select set_config('app.tenant', ?, false), "my col" from "t" -- ?"""
    assert statements.changes_session(query, [b"SELECT 1"])
    assert statements.changes_session(template("", sql.SQL("set"), "q", " search_path = x"), [b"SET"])
    writing = sql.SQL("insert into t values ({}) returning *").format(sql.Literal("secret"))
    assert not statements.saves_nothing(template("with x as (", writing, "q", ") select * from x"))
