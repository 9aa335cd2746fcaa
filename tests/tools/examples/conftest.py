"""Where the examples are, and the script that reads and runs them."""

import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"


def load_script() -> ModuleType:
    """scripts/run_example.py, as a module."""
    spec = util.spec_from_file_location("run_example", ROOT / "scripts" / "run_example.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def script() -> ModuleType:
    """The same."""
    return load_script()
