"""A whole project, run by manage.py: migrate, test, dbshell, and what they leave on the server."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.contract.conftest import Database
from tests.frameworks.django.conftest import described
from tests.support.runtime_api import ROOT

TESTS = """
import threading
import urllib.request

from django.db import connection, connections, transaction
from django.test import LiveServerTestCase, TestCase, TransactionTestCase

from lambda_pool.django import handler
from tests.frameworks.django.shop.models import Order
from tests.support.context import LambdaContext


class Quick(TestCase):
    @classmethod
    def setUpTestData(cls):
        Order.objects.create(name="given")

    def test_one(self):
        Order.objects.create(name="one")
        self.assertEqual(Order.objects.count(), 2)

    def test_two(self):
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            transaction.on_commit(lambda: None)
        self.assertEqual((Order.objects.count(), len(callbacks)), (1, 1))

    def test_client(self):
        self.assertEqual(self.client.get("/place/by-client").json()["count"], 2)


class Function(TestCase):
    @staticmethod
    @handler
    def function(event, context):
        Order.objects.create(name=event["name"])
        with transaction.atomic():
            Order.objects.create(name="second")
        return Order.objects.count()

    @classmethod
    def setUpTestData(cls):
        Order.objects.create(name="given")

    def test_one(self):
        self.assertEqual(self.function({"name": "one"}, LambdaContext()), 3)
        with self.assertRaises(KeyError):
            self.function({}, LambdaContext())
        self.assertEqual(self.function({"name": "two"}, LambdaContext()), 5)
        self.assertEqual(Order.objects.count(), 5)

    def test_two(self):
        self.assertEqual(self.function({"name": "one"}, LambdaContext()), 3)


class Whole(TransactionTestCase):
    def test_threads(self):
        Order.objects.create(name="one")
        seen = []

        def look():
            seen.append(Order.objects.count())
            connections.close_all()

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        self.assertEqual(seen, [1])

    def test_empty_again(self):
        self.assertEqual(Order.objects.count(), 0)


class Live(LiveServerTestCase):
    def test_another_thread_answers(self):
        Order.objects.count()
        with urllib.request.urlopen(self.live_server_url + "/place/live", timeout=10) as answer:
            self.assertEqual(answer.status, 200)
        self.assertEqual(Order.objects.count(), 1)
"""


class Project:
    """Settings, and a way to run manage.py with them."""

    def __init__(self, folder: Path, entry: dict[str, Any]) -> None:
        self._folder = folder
        settings = f"""
        DATABASES = {{"default": {entry!r}}}
        INSTALLED_APPS = ["tests.frameworks.django.shop.apps.ShopConfig"]
        ROOT_URLCONF = "tests.frameworks.django.shop.urls"
        SECRET_KEY = "of the tests"
        ALLOWED_HOSTS = ["*"]
        STATIC_URL = "static/"
        USE_TZ = True
        """
        (folder / "project_settings.py").write_text(textwrap.dedent(settings))
        (folder / "shoptests").mkdir()
        (folder / "shoptests" / "__init__.py").touch()
        (folder / "shoptests" / "test_shop.py").write_text(TESTS)
        self.env: dict[str, str] = {}

    def manage(self, *arguments: str, given: str = "") -> str:
        """Run one command to its end. Out: what it said."""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "django", *arguments],
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "project_settings", "PYTHONPATH": f"{ROOT}:.", **self.env},
            cwd=self._folder,
            capture_output=True,
            input=given,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def project(tmp_path: Path, database: Database) -> Any:
    """A project with its own database."""
    database.execute("create database shop")
    made = Project(tmp_path, {**described(database), "NAME": "shop"})
    yield made
    assert sessions(database, "shop") == 0
    assert sessions(database, "test_shop") == 0
    database.execute("drop database shop")


def sessions(database: Database, name: str) -> int:
    """How many are connected to a database."""
    if database.engine == "postgresql":
        found = database.execute(f"select count(*) from pg_stat_activity where datname = '{name}'")
    else:
        found = database.execute(f"select count(*) from information_schema.processlist where db = '{name}'")
    return int(found[0][0])


@pytest.mark.sampled(1 / 2, "runs manage.py five times")
def test_migrate_check_and_flush(project: Project, database: Database) -> None:
    assert "shop.0001_initial... OK" in project.manage("migrate")
    assert "No migrations to apply" in project.manage("migrate")
    assert "no issues" in project.manage("check", "--database", "default")
    project.manage("flush", "--noinput")
    assert "class ShopOrder" in project.manage("inspectdb", "shop_order")


@pytest.mark.parametrize("parallel", ["1", "2"])
@pytest.mark.sampled(1 / 2, "creates Django's test database")
def test_djangos_test_cases(project: Project, parallel: str) -> None:
    said = project.manage("test", "shoptests", "--noinput", "--parallel", parallel)
    assert "Ran 8 tests" in said
    assert "\nOK" in said
    project.manage("test", "shoptests.test_shop.Quick", "--noinput", "--keepdb")
    project.manage("test", "shoptests.test_shop.Quick", "--noinput")


@pytest.mark.sampled(1, "3 s a case")
def test_dbshell(project: Project, database: Database) -> None:
    option = "-c" if database.engine == "postgresql" else "-e"
    assert "42" in project.manage("dbshell", "--", option, "select 42")


@pytest.mark.sampled(1, "a second a case")
def test_dbshell_goes_where_the_environment_says(project: Project, database: Database) -> None:
    """And logs in as the same user as the pool: psql and mysql read none of its settings."""
    entry = {"ENGINE": f"lambda_pool.django.{database.engine}"}
    (project._folder / "other_settings.py").write_text(f"DATABASES = {{'default': {entry!r}}}\nSECRET_KEY = 'x'\n")
    project.env = {
        "LAMBDA_POOL_URL": database.url,
        "LAMBDA_POOL_METRICS": "off",
        "DJANGO_SETTINGS_MODULE": "other_settings",
    }
    option = "-c" if database.engine == "postgresql" else "-e"
    said = project.manage("dbshell", "--", option, "select 'found it'")
    assert "found it" in said
    assert database.server.password not in said
