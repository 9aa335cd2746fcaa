"""No password, token or secret leaves the process, whatever happens: every byte that does is searched."""

from pathlib import Path

import pytest

from tests.unit.secrets.canaries import search
from tests.unit.secrets.conftest import World
from tests.unit.secrets.scenes import SCENES


@pytest.mark.sampled(2, "a process that says all that it can")
@pytest.mark.parametrize("scene", SCENES)
def test_nothing_leaves(world: World, scene: str, tmp_path: Path) -> None:
    outlets, canaries = world.play(tmp_path, scene)
    assert len(outlets) > 10
    found = search(canaries, outlets)
    assert not found, f"{len(found)} places:\n" + "\n".join(found[:40])
