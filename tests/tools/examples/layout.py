"""What an example must have, so that it is a project that somebody can take away; CONTRIBUTING.md says the same."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

MOST_LINES = 15
"""Of an example's README."""


def missing(folder: Path, script: ModuleType) -> list[str]:
    """What the folder lacks, a sentence each; empty if it is complete."""
    return [f"{folder.name}: {text}" for text in (*_files(folder), *_template(folder, script))]


def _files(folder: Path) -> Iterator[str]:
    app, readme, tests = folder / "app.py", folder / "README.md", folder / "tests" / f"test_{folder.name}.py"
    if not app.exists():
        yield "app.py is missing: the function"
    elif not ast.get_docstring(ast.parse(app.read_text())):
        yield "app.py says nothing about itself: give it a docstring"
    if not (folder / "schema.sql").exists() and not any(folder.rglob("migrations")):
        yield "schema.sql is missing: the tables that it expects (a folder migrations/ would do as well)"
    if not readme.exists():
        yield "README.md is missing: ten lines on what it shows and how to run it"
    else:
        lines = readme.read_text().splitlines()
        if len(lines) > MOST_LINES:
            yield f"README.md has {len(lines)} lines: at most {MOST_LINES}"
        if f"make example NAME={folder.name}" not in lines:
            yield f"README.md does not say how to run it: make example NAME={folder.name}"
    if not tests.exists() or "\ndef test_" not in tests.read_text():
        yield f"tests/{tests.name} is missing, or has no test"


def _template(folder: Path, script: ModuleType) -> Iterator[str]:
    if not (folder / "template.yaml").exists():
        yield "template.yaml is missing: the function for SAM"
        return
    try:
        example = script.Example(folder)
        functions = example.functions
    except Exception as error:  # whatever is wrong with it, it is told
        yield f"template.yaml cannot be read: {type(error).__name__}: {' '.join(str(error).split())}"
        return
    if not functions:
        yield "template.yaml has no AWS::Serverless::Function"
    for function in functions.values():
        module, _, name = function.handler.rpartition(".")
        source = folder / f"{module.replace('.', '/')}.py"
        if not source.exists() or name not in _names(source):
            yield f"template.yaml: {function.name} has the handler {function.handler}, which does not exist"
        if not any(example.engines(value) for value in function.variables.values()):
            yield f"template.yaml: no variable of {function.name} refers to a parameter with a database's URL"
    yield from _events(folder, script, set(functions))


def _events(folder: Path, script: ModuleType, functions: set[str]) -> Iterator[str]:
    files = sorted(folder.glob("events/*"))
    if not files:
        yield "events/ is missing: at least one event, as 1-Function-what.json"
    for file in files:
        match = script.EVENT.fullmatch(file.name)
        if match is None:
            yield f"events/{file.name} must be named NUMBER-FUNCTION-WHAT.json"
        elif match[2] not in functions:
            yield f"events/{file.name} is for the function {match[2]}, which template.yaml does not have"
        try:
            json.loads(file.read_text())
        except ValueError as error:
            yield f"events/{file.name} is no JSON: {error}"
    if files and not any(not event.fails for event in script.Example(folder).events):
        yield "events/ has only events that fail"


def _names(source: Path) -> set[str]:
    """What a module defines at its top."""
    found: set[str] = set()
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found
