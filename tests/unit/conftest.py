"""What the tests of AWS's clients share."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def _descriptions_of_services_are_read_once() -> Iterator[None]:
    """botocore reads megabytes of JSON for each session's clients; a session already shares them among its clients."""
    try:
        from botocore.loaders import JSONFileLoader
    except ImportError:  # some environments do without it, and so do the tests that they run
        yield
        return
    read = JSONFileLoader.load_file

    @cache
    def read_once(path: str) -> Any:
        return read(JSONFileLoader(), path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", lambda self, path: read_once(path))
        yield
