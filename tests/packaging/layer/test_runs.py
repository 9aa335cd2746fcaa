"""A function on the layer, on the genuine runtime, in an interpreter that has nothing else, against real servers."""

import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from lambda_pool.testing import LambdaRuntime
from tests.support.iam_servers import REGION, IamServer
from tests.unit.auth.conftest import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN

from .conftest import ROOT, Build, version_of

pytestmark = [pytest.mark.runtime, pytest.mark.slow("needs the wheels of the layers, for each Python")]

ARCH = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
GIVEN = {
    "AWS_REGION": REGION,
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_SESSION_TOKEN": SESSION_TOKEN,
    "LAMBDA_POOL_AUTH": "iam",
}
PROBE = """
import sys
import app

def handler(event, context):
    answer = app.handler(event, context)
    import lambda_pool
    found = {name: sys.modules[name].__file__ for name in event["names"] if name in sys.modules}
    return {"answer": answer, "found": found, "path": sys.path}
"""


def run(opt: Path, task: Path, python: str, server: IamServer) -> dict[str, object]:
    """Two invocations of the three-line handler. /opt/python comes before /var/task, as PYTHONPATH."""
    (task / "probe.py").write_text(PROBE)
    env = {**GIVEN, "LAMBDA_POOL_URL": server.url(), "PYTHONPATH": str(task), "LAMBDA_TASK_ROOT": str(task)}
    names = ["lambda_pool", "psycopg", "psycopg_binary", "pymysql", "aws_lambda_powertools", "botocore"]
    runtime = LambdaRuntime("probe.handler", code_dir=opt / "python", env=env, python=python)
    with runtime:
        first = runtime.invoke({"names": names})
        second = runtime.invoke({"names": names})
    assert first.error is None, first.log
    assert second.error is None, second.log
    assert [line.partition(": ")[2] for line in server.checker.verdicts] == ["let in"]  # one login for both
    payload: dict[str, object] = first.payload
    return payload


DIAGNOSED = """
from lambda_pool.cli import doctor

def handler(event, context):
    return doctor.diagnose(timeout=10.0)
"""


def test_the_doctor_comes_with_it(
    build: Build, clean: Callable[[str], str], iam_server: IamServer, any_python: str, tmp_path: Path
) -> None:
    (tmp_path / "diagnosed.py").write_text(DIAGNOSED)
    env = {**GIVEN, "LAMBDA_POOL_URL": iam_server.url(), "PYTHONPATH": str(tmp_path), "LAMBDA_TASK_ROOT": str(tmp_path)}
    code = build(ARCH, version_of(any_python), "both") / "python"
    with LambdaRuntime("diagnosed.handler", code_dir=code, env=env, python=clean(any_python)) as runtime:
        report = runtime.invoke({}).payload
    assert report["ok"], report


def task_folder(folder: Path) -> Path:
    """/var/task with the three-line example."""
    (folder / "app.py").write_bytes((ROOT / "examples" / "three_lines" / "app.py").read_bytes())
    return folder


def test_both_drivers(
    build: Build, clean: Callable[[str], str], iam_server: IamServer, any_python: str, tmp_path: Path
) -> None:
    opt = build(ARCH, version_of(any_python), "both")
    payload = run(opt, task_folder(tmp_path), clean(any_python), iam_server)
    driver = {"postgresql": "psycopg", "mysql": "pymysql"}[iam_server.scheme]
    found = payload["found"]
    assert isinstance(found, dict)
    assert driver in found
    assert found["lambda_pool"] == str(opt / "python" / "lambda_pool" / "__init__.pyc")
    assert all(file.startswith(str(opt)) for file in found.values()), found
    assert "botocore" not in found


@pytest.mark.parametrize(("variant", "server"), [("postgres", "iam_postgres_server"), ("mysql", "iam_mariadb_server")])
def test_one_driver(
    build: Build,
    clean: Callable[[str], str],
    request: pytest.FixtureRequest,
    variant: str,
    server: str,
    any_python: str,
    tmp_path: Path,
) -> None:
    iam_server: IamServer = request.getfixturevalue(server)
    iam_server.checker.reset(ACCESS_KEY, SECRET_KEY, SESSION_TOKEN)
    opt = build(ARCH, version_of(any_python), variant)
    payload = run(opt, task_folder(tmp_path), clean(any_python), iam_server)
    found = payload["found"]
    assert isinstance(found, dict)
    assert all(file.startswith(str(opt)) for file in found.values()), found


def test_the_missing_driver_is_named(
    build: Build, clean: Callable[[str], str], iam_postgres_server: IamServer, any_python: str, tmp_path: Path
) -> None:
    opt = build(ARCH, version_of(any_python), "mysql")
    task = task_folder(tmp_path)
    env = {**GIVEN, "LAMBDA_POOL_URL": iam_postgres_server.url(), "PYTHONPATH": str(task)}
    with LambdaRuntime("app.handler", code_dir=opt / "python", env=env, python=clean(any_python)) as runtime:
        with pytest.raises(RuntimeError, match="psycopg"):
            runtime.invoke()
