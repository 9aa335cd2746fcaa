"""`make audit` can fail: on each kind of finding, and where it could not look."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "scripts" / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


audit: Any = load()


@pytest.fixture(scope="module")
def installed() -> Any:
    return audit.needed("lambda-pool", audit.EXTRAS)


def test_everything_that_users_install_is_pinned_and_under_an_allowed_licence(installed: Any) -> None:
    assert {"psycopg", "psycopg-binary", "pymysql", "botocore", "urllib3", "pytest", "awslambdaric"} <= installed.keys()
    assert audit.unpinned(installed, audit.pins((ROOT / "constraints.txt").read_text())) == []
    assert audit.forbidden(installed) == []


def test_every_extra_is_looked_at() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {*audit.EXTRAS, "all"} == extras.keys()


def test_what_is_not_pinned_is_a_finding(installed: Any) -> None:
    pinned = audit.pins("PyMySQL==0.1\nurllib3>=1\n")
    assert pinned == {"pymysql": "0.1"}
    found = "\n".join(audit.unpinned(installed, pinned))
    assert f"pymysql {installed['pymysql'].version}: constraints.txt pins it to 0.1" in found
    assert "urllib3" in found and "pins no version" in found


def test_a_licence_that_is_not_on_the_list_is_a_finding(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "ALLOWED", audit.ALLOWED - {"LGPL-3.0-only"})
    assert {line.split()[0] for line in audit.forbidden(installed)} >= {"psycopg", "psycopg-binary"}


@pytest.mark.parametrize(
    ("expression", "good"),
    [
        ("MIT", True),
        ("MIT OR AFL-2.1", True),
        ("GPL-3.0-only OR Apache-2.0", True),
        ("Apache-2.0 AND CNRI-Python", False),
        ("Apache-2.0 AND MIT", True),
        ("GPL-3.0-only", False),
        ("", False),
    ],
)
def test_licences(expression: str, good: bool) -> None:
    assert audit.allowed(expression) is good


def test_a_known_vulnerability_is_a_finding() -> None:
    answers = [
        {"name": "PyMySQL", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1.1"]}]},
        {"name": "urllib3", "version": "2.8.0", "vulns": []},
    ]
    assert audit.judged(answers, {"pymysql", "urllib3"}) == (["pymysql 1.0 has PYSEC-1; fixed in 1.1.1"], "")


def test_what_was_not_looked_at_is_said() -> None:
    answers = [{"name": "urllib3", "skip_reason": "not found"}]
    findings, trouble = audit.judged(answers, {"pymysql", "urllib3"})
    assert findings == []
    assert trouble == "the vulnerability service does not know 2 of 2 packages (pymysql, urllib3)"


@pytest.mark.parametrize(
    ("vulnerabilities", "trouble", "code", "says"),
    [
        ([], "", 0, "without a known vulnerability"),
        (["urllib3 1.0 has PYSEC-1"], "", 1, "FINDING: urllib3"),
        ([], "nobody answered", 2, "NOT DONE: known vulnerabilities: nobody answered"),
        (["urllib3 1.0 has PYSEC-1"], "half", 1, "NOT DONE"),
    ],
)
def test_the_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    vulnerabilities: list[str],
    trouble: str,
    code: int,
    says: str,
) -> None:
    monkeypatch.setattr(audit, "vulnerable", lambda installed: (vulnerabilities, trouble))
    assert audit.main() == code
    assert says in capsys.readouterr().out


def test_without_pip_audit_nothing_is_said_to_be_well(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit.sys, "executable", "/bin/false")
    findings, trouble = audit.vulnerable(installed)
    assert findings == []
    assert "could not be asked" in trouble
