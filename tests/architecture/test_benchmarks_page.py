"""The page of benchmarks says what the results say."""

from pathlib import Path

import pytest

from benchmarks.report.goals import goals
from benchmarks.report.page import PATH, render
from benchmarks.results import NEWEST_PATH, OLDEST_PATH, load

RENDERED = render()


@pytest.mark.parametrize("name", RENDERED)
def test_the_page_and_its_plots_are_made_of_the_results(name: str) -> None:
    """`python -m benchmarks.report.page` rewrites them."""
    assert (PATH.parent / name).read_text() == RENDERED[name]


@pytest.mark.parametrize("path", [OLDEST_PATH, NEWEST_PATH], ids=lambda path: path.stem)
def test_every_part_was_measured(path: Path) -> None:
    assert len(goals(load(path))) == 77
    assert "(not measured yet)" not in RENDERED["benchmarks.md"]


def test_no_result_names_the_machine() -> None:
    text = "".join([*RENDERED.values(), OLDEST_PATH.read_text(), NEWEST_PATH.read_text()])
    assert "/home/" not in text
    assert "/root/" not in text
    assert "/tmp/" not in text
