"""What `sam build` makes runs: the built function on the built layer, against real servers with IAM."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.layer.conftest import clean  # noqa: F401 - a fixture
from tests.packaging.layer.test_runs import ARCH, run
from tests.support.iam_servers import IamServer
from tests.unit.auth.conftest import (  # noqa: F401 - fixtures
    iam_genuine_server,
    iam_mariadb_server,
    iam_postgres_server,
    iam_server,
)

from .conftest import ROOT

pytestmark = pytest.mark.slow("needs the SAM CLI, and the wheels of the layers")

LAYERS = {"arm64": "LayerArm64", "x86_64": "LayerX8664"}


@pytest.fixture(scope="session")
def template_python() -> str:
    """An interpreter of the version that the template names."""
    [version] = set(re.findall(r"Runtime: python(3\.\d+)", (ROOT / "template.yaml").read_text()))
    python = ROOT / f".venv-{version}" / "bin" / "python"
    assert python.exists(), f"{python} is missing: `make setup` makes it where the machine has Python {version}"
    return str(python)


def test_every_function_and_layer_is_built(built: Path) -> None:
    assert (built / "Function" / "app.py").read_bytes() == (ROOT / "examples/three_lines/app.py").read_bytes()
    for layer in LAYERS.values():
        assert {path.name for path in (built / layer).iterdir()} == {"python"}
        assert (built / layer / "python" / "lambda_pool" / "__init__.pyc").exists()
        assert (built / layer / "python" / "psycopg_binary.libs").exists()


@pytest.mark.runtime
def test_the_built_function_runs_on_the_built_layer(
    built: Path,
    clean: Callable[[str], str],  # noqa: F811
    iam_server: IamServer,  # noqa: F811
    template_python: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "app.py").write_bytes((built / "Function" / "app.py").read_bytes())
    payload = run(built / LAYERS[ARCH], tmp_path, clean(template_python), iam_server)
    found = payload["found"]
    assert isinstance(found, dict)
    assert all(file.startswith(str(built)) for file in found.values()), found
