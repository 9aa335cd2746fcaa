"""The rules of the house: imports go one way, drivers and SDKs stay in their rooms, and importing costs nothing."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import lambda_pool

ROOT = Path(lambda_pool.__file__).parent

# Lowest first; a module may import from its own level or below. Rooms (packages) count as one, but for their protocols.
LEVELS = [
    {"errors", "secret", "record", "waiting"},
    {"request", "finished"},
    {"age", "aws"},
    {"config", "events", "tls", "endpoints.base", "auth.base", "engines.base", "engines.slow", "stats", "certs"},
    {"backoff", "invocation"},
    {"aio.waits", "aio.threads", "aio.generators"},
    {"core"},
    {"borrower"},
    {"hints"},
    {"connector", "unavailable"},
    {"release"},
    {"pool"},
    {"reclaim", "replay", "pooled_context", "warming"},
    {"crowding"},
    {"lifecycle", "signature"},
    {"injection", "stacking"},
    {"decorator"},
    {"decorated"},
    {"durable", "keywords", "sources"},
    {"api"},
    {"aio"},
    {"serving"},
    {"asgi", "wsgi"},
    {"testing"},
    {"cli", "django", "fastapi", "sqlalchemy"},
    {"__main__"},
]
ADAPTERS = ("engines", "auth", "endpoints", "metrics")
# `invocation` is where an adapter may ask whose request it is and how long there still is, `waiting` how to wait, and
# `backoff` how long before another try.
ADAPTERS_MAY_IMPORT = {
    "errors",
    "secret",
    "record",
    "age",
    "aws",
    "config",
    "events",
    "tls",
    "certs",
    "backoff",
    "invocation",
    "waiting",
}

DRIVERS = {"psycopg", "pymysql", "MySQLdb"}
FRAMEWORKS = {"django": {"django"}, "fastapi": {"fastapi"}, "sqlalchemy": {"fastapi", "sqlalchemy"}}
"""The rooms on top of frameworks, and what each of them may import of those."""
SDKS = {"boto3", "botocore", "aws_lambda_powertools"}
HEAVY = {*DRIVERS, *SDKS, *FRAMEWORKS, "anyio", "asyncio", "greenlet"}
SYSTEM = {"signal"}
NOT_IN_PURE = {"time", "threading", "os", "socket", "select", "asyncio", "signal", "random", "io"}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path
    return found


MODULES = modules()
PURE = {name for name in MODULES if name.partition(".")[0] == "core"}


def imports(name: str) -> tuple[set[str], set[str]]:
    """What a module imports, anywhere in it: our own modules, and top-level names of others; not for types alone."""
    tree = ast.parse(MODULES[name].read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    ours: set[str] = set()
    others: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                top, _, rest = alias.name.partition(".")
                (ours if top == "lambda_pool" else others).add(rest if top == "lambda_pool" else top)
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0 and not (node.module or "").startswith("lambda_pool"):
                others.add((node.module or "").partition(".")[0])
                continue
            parts = package.split(".") if package else []
            base = parts[: len(parts) - node.level + 1] if node.level else []
            module = (
                (node.module or "").removeprefix("lambda_pool").lstrip(".") if not node.level else node.module or ""
            )
            target = ".".join([*base, *([module] if module else [])])
            for alias in node.names:
                inner = f"{target}.{alias.name}" if target else alias.name
                ours.add(inner if inner in MODULES else target)
    return ours, others


def level(name: str) -> int | None:
    """The level of a module; None for adapters, which have a rule of their own."""
    for number, members in enumerate(LEVELS):
        if name in members or name.partition(".")[0] in members:
            return number
    return None


def test_every_module_has_a_place() -> None:
    homeless = [
        name
        for name in MODULES
        if name not in {"__init__", ""} and level(name) is None and not name.startswith(ADAPTERS)
    ]
    assert homeless == []


@pytest.mark.parametrize("name", [name for name in MODULES if level(name) is not None])
def test_imports_run_one_way(name: str) -> None:
    own = level(name)
    assert own is not None
    for target in imports(name)[0]:
        if not target:
            continue
        there = level(target)
        if there is None:
            assert name in {"api", "sources"} or own >= len(LEVELS) - 2, f"{name} imports the adapter {target}"
        else:
            assert there <= own, f"{name} imports {target}, which stands above it"


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith(ADAPTERS) and level(name) is None])
def test_adapters_import_protocols_only(name: str) -> None:
    room = name.partition(".")[0]
    for target in imports(name)[0]:
        allowed = (
            not target
            or target.startswith(room)
            or target.endswith(".base")
            or target.partition(".")[0] in ADAPTERS_MAY_IMPORT
            or (room == "engines" and target in {"aio.waits", "aio.generators"})
        )
        assert allowed, f"{name} imports {target}"


@pytest.mark.parametrize("name", MODULES)
def test_drivers_and_sdks_stay_in_their_rooms(name: str) -> None:
    _, others = imports(name)
    room = name.partition(".")[0]
    if room not in {"engines", "django", "testing", "cli"}:
        assert not others & DRIVERS
    if room not in {"aws", "auth", "endpoints", "metrics", "testing", "cli"}:
        assert not others & SDKS
    for framework, rooms in FRAMEWORKS.items():
        assert room in rooms or framework not in others
    if name in PURE:
        assert not others & NOT_IN_PURE
    if room not in {"lifecycle", "testing", "cli"}:
        assert not others & SYSTEM
        assert "register_at_fork" not in MODULES[name].read_text()


def loaded_after(code: str) -> set[str]:
    """Top-level names in sys.modules of a bare interpreter after `code`, without those it had before."""
    script = f"""
import sys
before = set(sys.modules)
{code}
import json
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return {name.partition(".")[0] for name in json.loads(out.stdout)}


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_after("import lambda_pool") & HEAVY


def test_importing_the_package_loads_none_of_its_own_modules_but_itself() -> None:
    """What keeps it far below 10 ms: typing, and nothing else that a bare interpreter lacks."""
    script = "import sys; import lambda_pool; print(sorted(m for m in sys.modules if m.startswith('lambda_pool')))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "['lambda_pool']"


@pytest.mark.parametrize(("url", "driver"), [("postgresql://h/d", "psycopg"), ("mysql://h/d", "pymysql")])
def test_a_pool_loads_its_own_driver_and_no_sdk(url: str, driver: str) -> None:
    loaded = loaded_after(f"import lambda_pool; pool = lambda_pool.Pool({url!r})")
    assert loaded & DRIVERS == {driver}
    assert not loaded & SDKS


def test_every_public_name_resolves() -> None:
    for name in lambda_pool.__all__:
        assert getattr(lambda_pool, name) is not None
    assert set(lambda_pool.__all__) <= set(dir(lambda_pool))
    with pytest.raises(AttributeError, match="nothing"):
        lambda_pool.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("url", "module", "extra"), [("postgresql://h/d", "psycopg", "postgres"), ("mysql://h/d", "pymysql", "mysql")]
)
def test_a_missing_driver_names_the_extra(url: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(lambda_pool.ConfigError, match=rf"lambda-pool\[{extra}\]"):
        lambda_pool.Pool(url)
