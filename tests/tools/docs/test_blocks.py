"""Every code block of every page: run where it runs, asked for where it is a command, read where it is data."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lambda_pool.testing import MariaDbServer, PostgresServer

from .blocks import OUTPUT, PAGES, ROOT, RUN, Block, blocks, of
from .commands import check, lines

SCHEMA = """
drop table if exists orders, accounts, prices;
create table orders (number bigserial primary key, article text, amount int default 1, message text unique,
                     settled bool default false);
create table accounts (name text primary key, balance int);
insert into accounts values ('a', 100), ('b', 100);
create table prices (article text primary key, price int);
insert into prices values ('tea', 4);
create extension if not exists hstore
"""


def test_every_block_has_a_language_that_is_tried_out() -> None:
    unknown = [block.name for page in PAGES for block in blocks(page) if block.language not in RUN | OUTPUT]
    assert unknown == []


@pytest.mark.sampled(2, "3 s a case")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language == "python" for b in blocks(page))], ids=lambda p: p.name
)
def test_python(page: Path, postgres: PostgresServer, mariadb: MariaDbServer, tmp_path: Path) -> None:
    for statement in SCHEMA.split(";"):
        postgres.execute(statement)
    mariadb.execute("create or replace table orders (number int auto_increment primary key, article text, amount int)")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LAMBDA_POOL"))}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "AWS_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "ASIAEXAMPLEKEY000001",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_LAMBDA_RIE": os.environ.get("AWS_LAMBDA_RIE", ""),
        "ORDERS_URL": postgres.url(),
        "REPORTS_URL": mariadb.url(),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.tools.docs.runner", str(page), postgres.url(), mariadb.url()],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_diff_can_be_applied() -> None:
    """Each of the README's: what it leads from and what it leads to are both Python."""
    diffs = [block for block in blocks(ROOT / "README.md") if block.language == "diff"]
    assert len(diffs) == 2
    for block in diffs:
        for sign in "-+":
            compile(side(block, sign), block.name, "exec")


def side(block: Block, sign: str) -> str:
    """What a diff leads from (`-`) or to (`+`)."""
    return "\n".join(line[1:] for line in block.code.splitlines() if line[:1] in {sign, " ", ""})


@pytest.mark.sampled(1, "7 s a case")
@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_the_readmes_function_passes_the_readmes_test(engine: str, tmp_path: Path) -> None:
    """In a folder that holds nothing else, as a reader does it; the function before the change fails that test."""
    readme = blocks(ROOT / "README.md")
    [diff] = [block for block in readme if block.language == "diff" and f'engine="{engine}"' in block.code]
    test = next(block.code for block in readme if block.language == "python")
    if engine == "mysql":
        test = test.replace("postgres_server", "mysql_server")
    (tmp_path / "test_app.py").write_text(test)
    # The reader has psycopg2; for what the function does with it, psycopg is the same.
    (tmp_path / "psycopg2.py").write_text("from psycopg import *\n")

    def tried(code: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "app.py").write_text(code)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LAMBDA_POOL")}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_app.py"]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    after = tried(side(diff, "+"))
    assert after.returncode == 0, after.stdout
    if engine == "postgresql":
        before = tried(side(diff, "-"))
        assert before.returncode == 1
        assert "terminating connection due to administrator command" in before.stdout
        assert "log of app.handler" in before.stdout


@pytest.mark.sampled(1 / 3, "11 s")
def test_the_tests_on_the_page_about_testing_pass(tmp_path: Path) -> None:
    page = blocks(ROOT / "docs" / "testing.md")
    tests = [block.code for block in page if block.language == "python" and "def test_" in block.code]
    assert len(tests) == 2
    (tmp_path / "test_page.py").write_text("\n\n".join(tests))
    [function] = [block for block in blocks(ROOT / "README.md") if 'engine="postgresql"' in block.code]
    (tmp_path / "app.py").write_text(side(function, "+"))
    (tmp_path / "secret_app.py").write_text(blocks(ROOT / "docs" / "pool.md")[1].code)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LAMBDA_POOL")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout


needs_sam = pytest.mark.slow("needs the SAM CLI, to ask it")


@pytest.mark.sampled(5, "many cases")
@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, marks=[needs_sam] if any(words[0] == "sam" for words in lines(block.code)) else [])
        for block in of("sh")
    ],
    ids=lambda block: block.name,
)
def test_commands(block: Block) -> None:
    commands = lines(block.code)
    assert commands
    for words in commands:
        check(words)


@pytest.mark.sampled(10, "many cases")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_sentences(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for code in re.findall(r"`([^`\n]+)`", prose):
        if re.match(r"(RUN )?(lambda-pool|make|(python -m )?pip install) ", code):
            for words in lines(code.removeprefix("RUN ").removeprefix("python -m ").replace("…", "")):
                check(words)


def test_commands_in_unmarked_blocks() -> None:
    for block in of(*OUTPUT):
        for line in block.code.splitlines():
            if line.startswith(("lambda-pool ", "make ", "pip ", "sam ")):
                for words in lines(line):
                    check(words)


@pytest.mark.parametrize(
    "command",
    [
        ["lambda-pool", "plan", "--nonsense"],
        ["make", "nonsense"],
        ["rm", "-rf", "/"],
        ["pip", "install", "lambda-pool[nonsense]"],
        pytest.param(["sam", "build", "--nonsense"], marks=needs_sam),
        ["aws", "rds", "nonsense"],
        ["export", "LAMBDA_POOL_NONSENSE=1"],
        ["aws", "lambda", "publish-layer-version", "--nonsense", "1"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_is_noticed(command: list[str]) -> None:
    with pytest.raises(Exception, match=r"there is no|has no|no program|no variable|invalid choice"):
        check(command)


def test_json() -> None:
    found = of("json")
    assert found
    for block in found:
        json.loads(block.code)


@pytest.mark.parametrize("block", of("sql"), ids=lambda block: block.name)
def test_sql(block: Block, postgres: PostgresServer, mariadb: MariaDbServer) -> None:
    server: Any = mariadb if block.code.startswith("-- MySQL") else postgres
    if server is postgres:
        postgres.execute("drop table if exists orders")
        postgres.execute("do $$ begin create role rds_iam; exception when duplicate_object then null; end $$")
        if not postgres.execute("select 1 from pg_database where datname = 'app'"):
            postgres.execute("create database app")
    code = re.sub(r"--.*", "", block.code)
    statements = [code] if "$grant$" in code else [part for part in code.split(";") if part.strip()]
    assert statements
    for statement in statements:
        # RDS's own plugin is not in MariaDB.
        server.execute(statement.replace("AWSAuthenticationPlugin AS 'RDS'", "mysql_native_password AS ''"))


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            file = page.parent / target if target else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The headings as GitHub links to them: lower case, spaces as hyphens, of other signs only - and _."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
