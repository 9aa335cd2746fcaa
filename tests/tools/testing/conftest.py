"""Servers as users get them: each of these is installed by its installer."""

from collections.abc import Iterator

import pytest

from tests.support.installed import install, installing


@pytest.fixture(scope="module", autouse=True)
def _installers_run() -> Iterator[None]:
    with installing(install):
        yield
