"""What the text of a statement tells costs little, however long that is: a function may have 128 MiB in all."""

import tracemalloc

import pytest

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
