"""Every code block of every page: run where it runs, asked for where it is a command, read where it is data."""

import json
import os
import re
import shlex
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
insert into prices values ('tea', 4)
"""


def test_every_block_has_a_language_that_is_tried_out() -> None:
    unknown = [block.name for page in PAGES for block in blocks(page) if block.language not in RUN | OUTPUT]
    assert unknown == []


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language == "python" for b in blocks(page))], ids=lambda p: p.name
)
def test_python(page: Path, postgres: PostgresServer, mariadb: MariaDbServer, tmp_path: Path) -> None:
    for statement in SCHEMA.split(";"):
        postgres.execute(statement)
    mariadb.execute("create or replace table orders (number int auto_increment primary key, article text, amount int)")
    # The README's first handler, which it then asks to be saved.
    (tmp_path / "app.py").write_text(blocks(ROOT / "README.md")[0].code)
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
        [sys.executable, "-m", "tests.docs.runner", str(page), postgres.url(), mariadb.url()],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_first_handler_runs_as_the_readme_says(tmp_path: Path) -> None:
    """Its blocks saved under the names that it gives them, and its commands, in a folder that holds nothing else."""
    [app, script, *_] = [block.code for block in blocks(ROOT / "README.md") if block.language == "python"]
    (tmp_path / "app.py").write_text(app)
    (tmp_path / "try_it.py").write_text(script)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LAMBDA_POOL"))}
    environment["AWS_LAMBDA_RIE"] = os.environ["AWS_LAMBDA_RIE"]

    def said(*arguments: str, **variables: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert said("try_it.py") == "[42]\n[42]\n"
    [command] = [line for block in of("sh") for line in block.code.splitlines() if "import app" in line]
    words = shlex.split(command)
    url, program, flag, code = words
    assert (url.partition("=")[0], program, flag) == ("LAMBDA_POOL_URL", ".venv/bin/python", "-c")
    with PostgresServer(tls=False) as server:
        assert said("-c", code, LAMBDA_POOL_URL=server.url()) == "(42,)\n"


needs_sam = pytest.mark.slow("needs the SAM CLI, to ask it")


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
