"""Writes docs/reference.md, the API reference, from the docstrings of the names that users import."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

TARGET = Path(__file__).resolve().parent.parent / "docs" / "reference.md"

# Module, its purpose, and its names. None: the names in __all__, or those that the module lists for lazy import.
SECTIONS: tuple[tuple[str, tuple[str, ...] | None], ...] = (
    ("lambda_pool", None),
    ("lambda_pool.metrics", None),
    ("lambda_pool.events", None),
    ("lambda_pool.testing", None),
)
HEAD = """\
# Reference

What users import, made from the docstrings by `make docs`. [Options](options.md) and [connecting](connecting.md) have
the keywords, URLs and environment variables.
"""


def names(module: ModuleType) -> list[str]:
    """The public names of a module: errors last, the others in their own order."""
    listed = getattr(module, "__all__", None) or getattr(module, "_HOMES", None)
    if listed is None:
        listed = [
            name
            for name, value in vars(module).items()
            if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
        ]
    return sorted(listed, key=lambda name: (is_error(getattr(module, name)), name))


def is_error(value: Any) -> bool:
    """True for an exception."""
    return inspect.isclass(value) and issubclass(value, Exception)


def signature(value: Any) -> str:
    """Its signature without annotations: types are in the code, where tools read them."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    parameters = [
        each.replace(annotation=inspect.Parameter.empty) for name, each in found.parameters.items() if name != "self"
    ]
    text = str(found.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
    # Two defaults that are not literals: one is shown as an object, the other differs between machines.
    return re.sub(r"<built-in function (\w+)>", r"\1", text).replace(repr(sys.executable), "sys.executable")


def documented(value: Any) -> str:
    """Its docstring without indentation; empty if it has none of its own."""
    text = value.__doc__ or ""
    return inspect.cleandoc(text)


def methods(value: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties with a docstring, including those of our own parent classes."""
    for name in sorted(dir(value)):
        if name.startswith("_"):
            continue
        home = next((parent for parent in value.__mro__ if name in vars(parent)), None)
        if home is None or not home.__module__.startswith("lambda_pool"):
            continue
        member = inspect.getattr_static(value, name)
        member = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if isinstance(member, property) or inspect.isfunction(member):
            yield name, member


def fields(value: type) -> str:
    """An event's fields, written like the arguments of a call; nothing for other classes."""
    found = getattr(value, "_fields", None)
    return f"({', '.join(found)})" if found else ""


# The methods that users call, of objects with further methods that only the package itself calls.
_CALLED = {
    "AuroraCluster": frozenset[str](),
    "IamToken": frozenset({"token"}),
    "Pool": frozenset({"close", "connection", "from_env", "handler", "name", "run", "stats", "warm"}),
    "RdsProxy": frozenset[str](),
    "SecretsManager": frozenset[str](),
}


def entry(section: str, name: str, value: Any) -> Iterator[str]:
    """One name: its signature, its docstring and its methods."""
    if is_error(value):
        parents = ", ".join(f"`{parent.__name__}`" for parent in value.__bases__)
        yield f"### {name}\n\nA {parents}. {documented(value)}\n"
        return
    # Only a pool makes an event, so its fields are what matters.
    shown = signature(value) if section != "lambda_pool.events" else fields(value)
    yield f"### {name}\n\n`{name}{shown}`\n\n{documented(value)}\n"
    if not inspect.isclass(value) or section == "lambda_pool.events":
        return
    for method, member in methods(value):
        text = documented(member.fget if isinstance(member, property) else member)
        if method not in _CALLED.get(name, {method}) or not text or text.startswith("See `"):
            continue
        call = "" if isinstance(member, property) else signature(member)
        yield f"**`{method}{call.replace('(cls, ', '(').replace('(cls)', '()')}`**\n\n{text}\n"


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for section, chosen in SECTIONS:
        module = import_module(section)
        parts.append(f"## {section}\n\n{documented(module).splitlines()[0]}\n")
        for name in chosen or names(module):
            parts += entry(section, name, getattr(module, name))
    return "\n".join(parts)


def main() -> int:
    """Write the page, or print it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--print", action="store_true", help="print it instead of writing the file")
    if parser.parse_args().print:
        print(reference(), end="")
    else:
        TARGET.write_text(reference())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
