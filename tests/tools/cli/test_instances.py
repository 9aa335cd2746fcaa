"""`plan --instance`: what a class of RDS instance allows."""

from __future__ import annotations

import gzip
import json
import re
from importlib.resources import files
from typing import Any

import pytest

from lambda_pool.cli import main
from lambda_pool.cli.plan import ENGINES, instances


def ec2() -> dict[str, float]:
    """GiB of each type of EC2 instance, as EC2's API told moto."""
    text = gzip.decompress((files("moto") / "ec2" / "resources" / "instance_types.json.gz").read_bytes())
    return {name: found["MemoryInfo"]["SizeInMiB"] / 1024 for name, found in json.loads(text).items()}


def classes() -> list[str]:
    """The classes of RDS, as CloudFormation's schema lists them."""
    schema = files("cfnlint") / "data" / "schemas" / "extensions" / "aws_rds_dbinstance" / "dbinstanceclass_enum.json"
    return sorted(set(re.findall(r"db\.\w+\.\w+(?=\")", schema.read_text())))


@pytest.mark.sampled(1 / 3, "8 s")
def test_a_class_has_the_memory_of_its_type() -> None:
    memory = ec2()
    known = 0
    for name in classes():
        expected = memory.get(name.removeprefix("db."))
        try:
            found = instances._memory(name)
        except ValueError:
            assert re.match(r"db\.(m[123]|r3|t1|x2m)\.|.*metal", name), name
            continue
        if expected is not None:
            assert found == expected, name
            known += 1
    assert known > 250


@pytest.mark.parametrize(
    ("name", "engine", "least", "most"),
    [
        ("db.t4g.micro", "postgresql", 70, 87),
        ("db.t3.small", "postgresql", 175, 198),  # 198 on a running one
        ("db.t3.medium", "postgresql", 380, 413),  # 413 on a running one
        ("db.m7g.large", "mysql", 580, 683),
        ("db.r7g.16xlarge", "postgresql", 5000, 5000),
        ("db.r7g.large", "mariadb", 600, 682),
        ("db.r6g.large", "aurora-postgresql", 1600, 1802),
    ],
)
def test_rdss_formula(name: str, engine: str, least: int, most: int) -> None:
    assert least <= instances.of(name, engine).max_connections <= most


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("db.t3.small", 45),
        ("db.t4g.medium", 90),
        ("db.t4g.large", 135),
        ("db.r6g.large", 1000),
        ("db.r6g.xlarge", 2000),
        ("db.r5.2xlarge", 3000),
        ("db.r5.4xlarge", 4000),
        ("db.r4.8xlarge", 5000),
        ("db.r5.12xlarge", 6000),
        ("db.r5.16xlarge", 6000),
        ("db.r5.24xlarge", 7000),
    ],
)
def test_aurora_mysqls_own_table(name: str, limit: int) -> None:
    assert instances.of(name, "aurora-mysql").max_connections == limit


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_has_a_formula(engine: str) -> None:
    assert instances.of("db.r6g.large", engine).max_connections > 100


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    code = main(["plan", "--environments", "20", "--json", *arguments])
    out, err = capsys.readouterr()
    return code, json.loads(out or "{}"), err


def test_the_plan_takes_it_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, _ = run(capsys, "--instance", "db.t4g.micro")
    assert code == 0
    assert answer["figures"]["max_connections"] == instances.of("db.t4g.micro", "postgresql").max_connections
    [source] = answer["asked"]
    assert "LEAST({DBInstanceClassMemory/9531392}, 5000); db.t4g.micro has 1 GiB" in source


def test_what_is_given_wins(capsys: pytest.CaptureFixture[str]) -> None:
    _, answer, _ = run(capsys, "--instance", "db.t4g.micro", "--max-connections", "500")
    assert (answer["figures"]["max_connections"], answer["asked"]) == (500, [])


@pytest.mark.parametrize("name", ["t4g.micro", "db.t4g", "db.t4g.enormous", "db.z9.large", "db.m7i.metal-24xl", ""])
def test_what_is_not_known_is_said(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "--instance", name)
    assert code == 2
    assert f"--instance {name} is not known here" in err
    assert "give --max-connections" in err


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("t4g.micro", "db.t4g.micro"),
        ("db.t4.micro", "db.t4g.micro"),
        ("db.r6.large", "db.r6g.large"),
        ("db.m7g.xlage", "db.m7g.xlarge"),
    ],
)
def test_an_unknown_class_names_near_ones(name: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{near}" in run(capsys, "--instance", name)[2].partition("did you mean ")[2].partition("?")[0]


@pytest.mark.parametrize(
    ("capacity", "engine", "limit"),
    [
        ("1-1", "aurora-postgresql", 189),
        ("0.5-4", "aurora-postgresql", 823),
        ("0-8", "postgresql", 1669),
        ("1-16", "aurora-postgresql", 3360),
        ("0.5-16", "aurora-postgresql", 2000),
        ("2-256", "aurora-postgresql", 5000),
        ("0.5-1", "aurora-mysql", 90),
        ("0.5-7.5", "mysql", 135),
        ("0.5-16", "aurora-mysql", 2000),
        ("8-256", "aurora-mysql", 6000),
    ],
)
def test_auroras_own_table_for_serverless(capacity: str, engine: str, limit: int) -> None:
    assert instances.of_capacity(capacity, engine).max_connections == limit


@pytest.mark.parametrize("capacity", ["16", "0.5", "16-0.5", "-1-4", "0.5-0.5", "1-512", "a-b", "nan-nan", ""])
def test_a_capacity_that_cannot_be(capacity: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, f"--acu={capacity}")
    assert code == 2
    assert f"--acu {capacity} is not a range of capacity" in err


def test_serverless_asks_for_its_capacity(capsys: pytest.CaptureFixture[str]) -> None:
    assert "as in --acu 0.5-16" in run(capsys, "--instance", "db.serverless")[2]
    assert "no MariaDB" in run(capsys, "--acu", "1-2", "--engine", "mariadb")[2]
