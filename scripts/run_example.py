"""Runs one of the examples on the genuine Lambda runtime, against private servers: `make example NAME=sqs_batch`.

The example's own files say what is run. template.yaml has the functions and their variables, and schema.sql the tables.
events/NUMBER-FUNCTION-WHAT.json says what is sent to which function, in the order of the numbers. An event whose name
ends in `-fails` must fail. At the end the function is frozen, the server ends every session, and the last event is sent
once more. If the emulator cannot run an example, it has a run.py of its own, which gets LAMBDA_POOL_URL.

Exit code: 0 if every event was answered as expected, 1 if one was not, 2 if there is nothing to run.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lambda_pool.testing import LambdaRuntime, MariaDbServer, PostgresServer
from lambda_pool.testing.answers import LambdaRuntimeError
from lambda_pool.testing.server import ServerError

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
EVENT = re.compile(r"(\d+)-([A-Za-z0-9]+)(?:-([a-z0-9-]+))?\.json")
_WIDTH = 80
_Server = PostgresServer | MariaDbServer


class NothingToRunError(Exception):
    """The requested example cannot be run; the text says why, and what can be run."""


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short functions: `!Ref Name` becomes {"Ref": "Name"}."""


def _function(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        return {suffix: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {suffix: loader.construct_sequence(node, deep=True)}
    return {suffix: loader.construct_mapping(node, deep=True)}


_Loader.add_multi_constructor("!", _function)


@dataclass(frozen=True)
class Function:
    """One function of an example's template."""

    name: str
    handler: str
    timeout: int
    variables: Mapping[str, Any]


@dataclass(frozen=True)
class Event:
    """One file in events/."""

    path: Path
    function: str
    fails: bool


class Example:
    """One folder of examples/, as its files describe it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.template: dict[str, Any] = yaml.load((folder / "template.yaml").read_text(), _Loader)

    @property
    def functions(self) -> dict[str, Function]:
        """The functions, by their logical ids."""
        common = self.template.get("Globals", {}).get("Function", {})
        found = {}
        for name, resource in self.template["Resources"].items():
            if resource["Type"] == "AWS::Serverless::Function":
                own = {**common, **resource["Properties"]}
                variables = {
                    **common.get("Environment", {}).get("Variables", {}),
                    **resource["Properties"].get("Environment", {}).get("Variables", {}),
                }
                found[name] = Function(name, own["Handler"], int(own.get("Timeout", 3)), variables)
        return found

    @property
    def events(self) -> list[Event]:
        """The events, in the order in which they are sent. A file whose name has another form is not an event."""
        matches = [(match, path) for path in self.folder.glob("events/*") if (match := EVENT.fullmatch(path.name))]
        matches.sort(key=lambda pair: int(pair[0][1]))
        return [Event(path, match[2], (match[3] or "").endswith("fails")) for match, path in matches]

    def engines(self, variable: Any) -> list[str]:
        """The engines that a variable's URL may name, by the pattern of the parameter that it refers to."""
        name = variable.get("Ref") if isinstance(variable, dict) else None
        pattern = self.template.get("Parameters", {}).get(name, {}).get("AllowedPattern", "")
        return [engine for engine in ("postgresql", "mysql") if re.search(rf"\b{engine}\b.*://", pattern)]

    def schema(self, engine: str) -> str:
        """The SQL to run first; empty if an event creates the tables."""
        path = self.folder / ("schema.sql" if engine == "postgresql" else "schema.mysql.sql")
        text = re.sub(r"--.*", "", path.read_text()) if path.exists() else ""
        return text.strip()


def names() -> list[str]:
    """Every example."""
    return sorted(path.parent.name for path in EXAMPLES.glob("*/template.yaml"))


def find(name: str) -> Example:
    """The example of this name. Raises NothingToRunError."""
    if name in names():
        return Example(EXAMPLES / name)
    close = difflib.get_close_matches(name, names(), 1)
    meant = f"\nDid you mean NAME={close[0]}?" if close else ""
    listed = textwrap.fill(", ".join(names()), _WIDTH - 2, initial_indent="  ", subsequent_indent="  ")
    asked = f"There is no example {name!r}." if name else "Say which example: make example NAME=three_lines"
    raise NothingToRunError(f"{asked}{meant}\nThe examples:\n{listed}")


def show(text: str) -> None:
    """One answer or message, with wrapped lines."""
    for line in text.splitlines() or [""]:
        print(
            "\n".join(
                textwrap.wrap(line, _WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
            )
            or ""
        )


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """A line of progress, which ends with the time taken."""
    print(f"{text:<66}", end="", flush=True)
    begun = time.monotonic()
    try:
        yield
    except BaseException:
        print("  failed", flush=True)
        raise
    print(f"{time.monotonic() - begun:7.1f} s", flush=True)


class Run:
    """One run: its servers, its functions, and how many events were not answered as expected."""

    def __init__(self, example: Example, engine: str, stack: contextlib.ExitStack) -> None:
        self._example = example
        self._engine = engine
        self._stack = stack
        self._servers: dict[str, _Server] = {}
        self._runtimes: dict[str, LambdaRuntime] = {}
        self.wrong = 0

    def url(self, engines: list[str]) -> str:
        """The URL of a private server of the chosen engine, or of the engine that the example needs."""
        engine = self._engine if self._engine in engines else engines[0]
        if engine not in self._servers:
            title = "PostgreSQL" if engine == "postgresql" else "MariaDB"
            with step(f"start a private {title}"):
                server: _Server = PostgresServer(tls=False) if engine == "postgresql" else MariaDbServer()
                self._servers[engine] = self._stack.enter_context(server)
            if schema := self._example.schema(engine):
                with step("make the tables of the schema"):
                    for statement in schema.rstrip(";").split(";\n"):
                        server.execute(statement)
        return self._servers[engine].url()

    def variables(self, function: Function) -> dict[str, str]:
        """The function's variables for this run. Those that need AWS are left out, and named in the output."""
        found, left = {"PYTHONDONTWRITEBYTECODE": "1"}, []
        for name, value in function.variables.items():
            if engines := self._example.engines(value):
                found[name] = self.url(engines)
            elif isinstance(value, dict) or name.endswith("_AUTH"):
                left.append(name)
            else:
                found[name] = str(value)
        if left:
            print(f"not set here, because it needs AWS: {', '.join(left)}")
        return found

    def runtime(self, name: str) -> LambdaRuntime:
        """The execution environment of a function, started when it is first needed."""
        if name not in self._runtimes:
            function = self._example.functions[name]
            environment = self.variables(function)
            with step(f"start {function.handler} on the Lambda runtime"):
                self._runtimes[name] = self._stack.enter_context(
                    LambdaRuntime(
                        function.handler,
                        code_dir=self._example.folder,
                        env=environment,
                        timeout=function.timeout,
                        function_name=name,
                    )
                )
        return self._runtimes[name]

    def send(self, event: Event) -> None:
        """Send one event, and show the answer."""
        runtime = self.runtime(event.function)
        shown = f"send events/{event.path.name}"
        print(f"{shown:<66}", end="", flush=True)
        answer = runtime.invoke(json.loads(event.path.read_text()))
        print(f"{answer.milliseconds:7.1f} ms", flush=True)
        if answer.error is None:
            show(json.dumps(answer.payload, ensure_ascii=False))
        else:
            show(f"{answer.error.get('errorType')}: {answer.error.get('errorMessage')}")
        if (answer.error is not None) != event.fails:
            self.wrong += 1
            show("It should have failed." if event.fails else f"It should not have failed. The log:\n{answer.log}")

    def end_sessions(self) -> None:
        """Freeze every environment, end every session of the servers, and go on."""
        with step("freeze the function, end every session on the server, thaw it"):
            for runtime in self._runtimes.values():
                runtime.freeze()
            for server in self._servers.values():
                server.end_sessions()
            for runtime in self._runtimes.values():
                runtime.thaw()


def run(example: Example, engine: str) -> int:
    """Run it. Returns the number of events that were not answered as expected."""
    with contextlib.ExitStack() as stack:
        this = Run(example, engine, stack)
        if (own := example.folder / "run.py").exists():
            environment = {**os.environ, "LAMBDA_POOL_URL": this.url([engine]), "AWS_DEFAULT_REGION": "eu-central-1"}
            return subprocess.run([sys.executable, str(own)], env=environment, check=False).returncode
        events = example.events
        for event in events:
            this.send(event)
        this.end_sessions()
        this.send([event for event in events if not event.fails][-1])
    return this.wrong


def main(arguments: list[str] | None = None) -> int:
    """Run the named example, and report the result."""
    parser = argparse.ArgumentParser(prog="make example", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", help="a folder in examples/")
    parser.add_argument("--engine", default="postgresql", help="postgresql or mysql, where an example runs on both")
    asked = parser.parse_args(arguments)
    try:
        if asked.engine not in {"postgresql", "mysql"}:
            raise NothingToRunError(f"ENGINE={asked.engine} is not an engine: use ENGINE=postgresql or ENGINE=mysql.")
        wrong = run(find(asked.name), asked.engine)
    except (NothingToRunError, ServerError) as error:
        print(error, file=sys.stderr)
        return 2
    except (LambdaRuntimeError, TimeoutError) as error:
        show(str(error))
        return 1
    columns = min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns)
    print(textwrap.fill("All is well." if not wrong else f"{wrong} of its events went wrong.", columns))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
