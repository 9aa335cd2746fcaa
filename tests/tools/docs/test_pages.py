"""What the pages say is so: error texts, parameters, printed plans, and the reference."""

import ast
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from lambda_pool.cli import main
from lambda_pool.cli.demo.report import code_lines
from lambda_pool.cli.demo.ways import WAYS
from lambda_pool.config import OPTIONS, PARTS, make, synonyms
from lambda_pool.engines.psycopg.arguments import ARGUMENTS as LIBPQ
from lambda_pool.engines.pymysql.arguments import ARGUMENTS as PYMYSQL

from .blocks import PAGES, ROOT, blocks
from .messages import Message, messages

DOCS = ROOT / "docs"


# --- troubleshooting --------------------------------------------------------------------------------------------------


@cache
def texts() -> str:
    """Every text in the package, the fixed parts of f-strings joined by a mark."""
    found = []
    for path in (ROOT / "lambda_pool").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def said_by_us() -> list[str]:
    """The headings of the first part of the page."""
    page = (DOCS / "troubleshooting.md").read_text()
    ours = page.partition("## What lambda_pool says\n")[2].partition("\n## ")[0]
    # The first column of a table holds several, with a semicolon between them; its own heading has one cell only.
    cells = re.findall(r"^\| (.+?) \| .+ \|$", ours, re.MULTILINE)
    listed = [text.strip() for cell in cells for text in cell.split("; ")]
    return re.findall(r"^#### (.+)$", ours, re.MULTILINE) + listed


def plain(page: str) -> str:
    """The page as a search in it sees it."""
    return " ".join(page.replace("`", "").split())


@pytest.mark.parametrize("message", messages(), ids=lambda message: message.where)
def test_each_text_that_the_package_says_is_found_in_troubleshooting(message: Message) -> None:
    page = plain((DOCS / "troubleshooting.md").read_text())
    assert any(piece in page for piece in message.pieces), f"docs/troubleshooting.md has nothing of {message.text!r}"


def test_the_texts_are_read_from_the_source() -> None:
    found = " ".join(message.text for message in messages())
    assert len(messages()) > 150
    for text in (
        "no database URL: pass one, or set",  # raised
        "Check that user … may log in with IAM",  # a hint, returned
        "this connection() was entered twice",  # a constant
        "a connection was held for",  # logged
        "COMMIT was sent and its answer was lost",  # by an engine
    ):
        assert text in found, text
    assert "ping failed" not in found  # at debug level
    assert "connection replaced" not in found  # at info level


@pytest.mark.parametrize("heading", said_by_us())
def test_each_error_text_is_one_that_the_package_says(heading: str) -> None:
    pieces = [piece.strip(" '()") for piece in re.split("…|IamToken\\(region=|'", heading)]
    # What is left of a piece of which a variable was a part is too short to tell anything.
    telling = [piece for piece in pieces if len(piece) > 8]
    assert telling, heading
    for piece in telling:
        assert piece in texts(), piece


def said_by_others() -> list[str]:
    """The headings of the page's second part."""
    page = (DOCS / "troubleshooting.md").read_text()
    return re.findall(r"^#### (.+)$", page.partition("\n## What drivers, servers and Lambda say\n")[2], re.MULTILINE)


@pytest.mark.parametrize(
    ("heading", "log"),
    [
        ("no password supplied", 'connection to server at "db", port 5432 failed: fe_sendauth: no password supplied'),
        ("using password: NO", "(1045, \"Access denied for user 'app'@'10.0.0.1' (using password: NO)\")"),
        ("database … does not exist", 'FATAL:  database "oders" does not exist'),
        ("Unknown database", "(1049, \"Unknown database 'oders'\")"),
        ("current transaction is aborted", "current transaction is aborted, commands ignored until end of …"),
        (
            "This Session has been permanently closed",
            "sqlalchemy.exc.InvalidRequestError: This Session has been permanently closed and is unable to handle any",
        ),
        (
            "Can't reconnect until invalid transaction is rolled back",
            "sqlalchemy.exc.PendingRollbackError: Can't reconnect until invalid transaction is rolled back.  Please",
        ),
        ("the connection is closed", "psycopg.OperationalError: the connection is closed"),
        ('syntax error at or near "$1"', 'psycopg.errors.SyntaxError: syntax error at or near "$1"'),
        ("deadlock detected", "psycopg.errors.DeadlockDetected: deadlock detected"),
        ("session is read-only", 'connection to server at "db" (10.0.0.1), port 5432 failed: session is read-only'),
        ("session is not read-only", 'connection to server at "db", port 5432 failed: session is not read-only'),
        ("server is in hot standby mode", 'connection to server at "db" failed: server is in hot standby mode'),
        ("server is not in hot standby mode", 'connection to server at "db" failed: server is not in hot standby mode'),
        ("connection to client lost", "FATAL:  connection to client lost"),
        ("could not serialize access", "could not serialize access due to concurrent update"),
        (
            "Deadlock found when trying to get lock",
            "(1213, 'Deadlock found when trying to get lock; try …')",
        ),
        ("Lock wait timeout exceeded", "(1205, 'Lock wait timeout exceeded; try restarting transaction')"),
        (
            "Unable to marshal response: … is not JSON serializable",
            "Unable to marshal response: Object of type Decimal is not JSON serializable",
        ),
        ("received invalid response to SSL negotiation", "received invalid response to SSL negotiation: J"),
        ("(0, '')", "pymysql.err.InterfaceError: (0, '')"),
        (
            "(1153, \"Got a packet bigger than 'max_allowed_packet' bytes\")",
            "pymysql.err.OperationalError: (1153, \"Got a packet bigger than 'max_allowed_packet' bytes\")",
        ),
        (
            "(1792, 'Cannot execute statement in a READ ONLY transaction.')",
            "(1792, 'Cannot execute statement in a READ ONLY transaction.')",
        ),
        (
            "(3159, 'Connections using insecure transport are prohibited",
            "(3159, 'Connections using insecure transport are prohibited while --require_secure_transport=ON.')",
        ),
        (
            "'cryptography' package is required",
            "RuntimeError: 'cryptography' package is required for sha256_password or caching_sha2_password auth …",
        ),
        (
            "(1862, 'Your password has expired",
            "(1862, 'Your password has expired. To log in you must change it using …')",
        ),
        (
            "(1820, 'You must reset your password using ALTER USER statement",
            "(1820, 'You must reset your password using ALTER USER statement before executing this statement.')",
        ),
        *[
            (
                f"(1290, 'The MySQL server is running with the --{option} option",
                f"(1290, 'The MySQL server is running with the --{option} option so it cannot execute this statement')",
            )
            for option in ("read-only", "super-read-only")
        ],
        ("channel binding required, but SSL not in use", "channel binding required, but SSL not in use"),
        (
            'character with byte sequence … in encoding "UTF8" has no equivalent in encoding',
            'character with byte sequence 0xe6 0x97 0xa5 in encoding "UTF8" has no equivalent in encoding "LATIN1"',
        ),
        ("requires a different Python", "Package 'lambda-pool' requires a different Python: 3.10.1 not in '>=3.11'"),
        ("SSL connection has been closed unexpectedly", "SSL connection has been closed unexpectedly"),
        ("consuming input failed", "consuming input failed: server closed the connection unexpectedly"),
        ("SSL SYSCALL error", "consuming input failed: SSL SYSCALL error: EOF detected"),
        (
            "terminating connection due to idle-in-transaction timeout",
            "FATAL:  terminating connection due to idle-in-transaction timeout",
        ),
        ("cached plan must not change result type", "ERROR:  cached plan must not change result type"),
        ("unsupported startup parameter", "FATAL:  unsupported startup parameter: options"),
        ("invalid connection option", 'invalid connection option "schema"'),
        ("unrecognized configuration parameter", 'FATAL:  unrecognized configuration parameter "nonsense"'),
        ("query_wait_timeout", "FATAL:  query_wait_timeout"),
        ("canceling statement due to statement timeout", "canceling statement due to statement timeout"),
        ("attached to a different loop", "RuntimeError: Task <…> got Future <…> attached to a different loop"),
        ('(1050, "Table … already exists")', "(1050, \"Table 'work' already exists\")"),
    ],
)
def test_what_servers_and_lambda_often_say_is_found_in_troubleshooting(heading: str, log: str) -> None:
    assert heading in said_by_others()
    assert re.search(".*".join(map(re.escape, heading.split("…"))), log)


# --- every page -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_waits_for_a_figure(page: Path) -> None:
    """Such as `TODO`, `FIGURE12 s`, `??` or `<figure>`; text in code may hold anything."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    waiting = re.findall(r"\b(?:TODO|FIXME|TBD|XXX)\b|\b[A-Z]{4,}\d+\b|\?\?|<[a-z]+>|\{\w+\}", prose)
    assert [each for each in waiting if each not in _NAMES] == []


_NAMES = {"AWSPENDING", "AWSCURRENT", "MD5", "SHA256", "HTTP2"}


# --- options ----------------------------------------------------------------------------------------------------------


def test_every_option_stands_in_one_table_with_its_default() -> None:
    table = (DOCS / "options.md").read_text().partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) \|", table, re.MULTILINE))
    assert sorted(rows) == sorted(OPTIONS)
    config = make("mysql://app@db.example/app", None, {}, {})
    for name, shown in rows.items():
        default = getattr(config, name)
        told = {"None": "none", "0.0": "0"}.get(str(default), str(default).lower())
        assert shown.strip("`").removesuffix(" (off)") == told, name


# --- connecting -------------------------------------------------------------------------------------------------------


def test_every_argument_that_is_passed_on_is_on_the_page() -> None:
    page = (DOCS / "connecting.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \| (`[^|]+`) \|$", page, re.MULTILINE))
    assert re.findall(r"`(\w+)`", rows["PostgreSQL (libpq, psycopg)"]) == sorted(LIBPQ.passed)
    assert re.findall(r"`(\w+)`", rows["MySQL (PyMySQL)"]) == sorted(PYMYSQL.passed)
    objects = re.findall(r"`(\w+)`", rows["only in `connect_args`, because they are not text"])
    assert objects == [*sorted(LIBPQ.objects), *sorted(PYMYSQL.objects)]


def test_every_part_and_every_option_of_a_url_is_on_the_page() -> None:
    page = (DOCS / "connecting.md").read_text()
    for name in (*PARTS, *synonyms.OPTIONS):
        assert re.search(rf"\b{name}\b", page), name
    for name in ("HOST", "PORT", "USER", "PASSWORD", "DATABASE", "ENGINE"):
        assert f"`LAMBDA_POOL_{name}`" in page


def test_every_variable_that_is_read_is_on_some_page() -> None:
    """But those that Lambda sets, or that every SDK of AWS's reads."""
    package = ROOT / "lambda_pool"
    apart = (package / "testing", package / "cli" / "demo")
    source = "".join(path.read_text() for path in package.rglob("*.py") if not set(apart) & set(path.parents))
    read = set(re.findall(r"\bos\.environ(?:\.get\(|\[)[\"'](\w+)", source))
    pages = "".join(page.read_text() for page in DOCS.glob("*.md"))
    assert {"SSL_CERT_FILE", "NO_COLOR"} < read
    assert [name for name in sorted(read) if not name.startswith("AWS_") and f"`{name}" not in pages] == []


# --- the demo ---------------------------------------------------------------------------------------------------------


def test_the_demos_lines_of_code_are_those_of_its_functions() -> None:
    page = (DOCS / "demo.md").read_text()
    shown = re.findall(r"^ +(\d+) lines of code +(\d+) lines of code +(\d+) lines of code$", page, re.M)
    assert [list(map(int, row)) for row in shown] == [
        [code_lines(way.source(engine).read_text()) for way in WAYS] for engine in ("postgresql", "mysql")
    ]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


# --- deploying --------------------------------------------------------------------------------------------------------


def test_every_parameter_and_output_of_the_template_is_explained() -> None:
    template = (ROOT / "template.yaml").read_text()
    parameters = template.partition("\nParameters:\n")[2].partition("\nRules:")[0]
    outputs = template.partition("\nOutputs:\n")[2]
    page = (DOCS / "deploying.md").read_text()
    names = re.findall(r"^  (\w+):$", parameters, re.MULTILINE) + re.findall(r"^  (\w+):$", outputs, re.MULTILINE)
    assert len(names) > 30
    assert [name for name in names if f"`{name}`" not in page] == []


def test_every_permission_in_the_template_is_explained() -> None:
    template = (ROOT / "template.yaml").read_text()
    page = (DOCS / "deploying.md").read_text()
    for action in set(re.findall(r"\b((?:rds-db|rds|secretsmanager|kms|logs):[A-Za-z]+)\b", template)):
        if action not in {"kms:ViaService"}:
            assert f"`{action}`" in page, action


# --- sizing -----------------------------------------------------------------------------------------------------------


def test_the_plan_and_its_chart_are_what_the_command_makes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    [command, *_], [printed, *_] = (
        [block.code for block in blocks(DOCS / "sizing.md") if block.language == language]
        for language in ("sh", "text")
    )
    chart = tmp_path / "plan.svg"
    main([*shlex.split(command)[1:], "--chart", str(chart)])
    assert capsys.readouterr().out.startswith(printed + "\n\nThe chart is in ")
    assert chart.read_text() == (DOCS / "plan.svg").read_text()


def test_the_fleets_plan_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    [command, *_], [printed, *_] = (
        [block.code for block in blocks(DOCS / "fleet.md") if block.language == language] for language in ("sh", "text")
    )
    main(shlex.split(command.splitlines()[0])[1:])
    assert printed.strip() in capsys.readouterr().out


def test_what_the_page_says_of_managed_instances_is_what_the_command_says(capsys: pytest.CaptureFixture[str]) -> None:
    commands, printed = (
        [block.code for block in blocks(DOCS / "sizing.md") if block.language == language]
        for language in ("sh", "text")
    )
    main(shlex.split(commands[-1])[1:])
    assert printed[-1] in capsys.readouterr().out.splitlines()


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_every_example_stands_among_the_recipes() -> None:
    page = (DOCS / "recipes.md").read_text()
    for folder in (ROOT / "examples").iterdir():
        if (folder / "README.md").exists():
            assert f"(../examples/{folder.name}/" in page


# --- reference --------------------------------------------------------------------------------------------------------


def test_the_reference_is_what_the_docstrings_say() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "build_reference.py"), "--print"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (DOCS / "reference.md").read_text(), "run `make docs`"


def test_every_tool_deploys_the_function_of_the_example() -> None:
    """The Serverless Framework packs a folder, so it has a copy of the file."""
    copy, original = (ROOT / folder / "app.py" for folder in ("deploy/serverless", "examples/three_lines"))
    assert copy.read_bytes() == original.read_bytes()
