"""Which arguments Terraform's providers have: read from what was generated from their own schemas for CDKTF."""

import ast
import zipfile
from functools import cache
from pathlib import Path
from typing import Any


def wrong(folder: Path, kind: str, type_: str, settings: dict[str, Any]) -> list[str]:
    """What a `resource` or `data` block of this type has that it may not have, and what it lacks.

    `folder` has the wheels of the providers; `settings` is the block as python-hcl2 reads it.
    """
    provider, _, name = type_.partition("_")
    module = name if kind == "resource" else f"data_{provider}_{name}"
    root = "".join(part.capitalize() for part in module.split("_"))
    classes = _classes(folder, provider, module)
    return _wrong(classes, f"{root}Config", root, type_, settings)


@cache
def _classes(folder: Path, provider: str, module: str) -> dict[str, dict[str, bool]]:
    """The keywords of each class of a module, and whether each is required."""
    [wheel] = folder.glob(f"cdktf_cdktf_provider_{provider}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tree = ast.parse(archive.read(f"cdktf_cdktf_provider_{provider}/{module}/__init__.py"))
    return {
        made.name: {
            argument.arg: default is None
            for argument, default in zip(part.args.kwonlyargs, part.args.kw_defaults, strict=True)
        }
        for made in tree.body
        if isinstance(made, ast.ClassDef)
        for part in made.body
        if isinstance(part, ast.FunctionDef) and part.name == "__init__"
    }


def _wrong(
    classes: dict[str, dict[str, bool]], name: str, prefix: str, shown: str, settings: dict[str, Any]
) -> list[str]:
    known = classes[name]
    # python-hcl2 adds the lines that a block stands on.
    given = {key: value for key, value in settings.items() if not key.startswith("__")}
    found = [f"{shown} has no {key}" for key in given if key not in known]
    found += [f"{shown} needs {key}" for key, required in known.items() if required and key not in given]
    for key, values in given.items():
        nested = prefix + "".join(part.capitalize() for part in key.split("_"))
        if nested in classes:
            for value in values:
                found += _wrong(classes, nested, nested, f"{shown}'s {key}", value)
    return found
