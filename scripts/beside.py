"""Makes an interpreter beside .venv that imports the package from one given tree and from nowhere else.

Processes that a test starts with `sys.executable` import from there too, even the genuine runtime with its bare
environment: the installed package is not on that interpreter's path at all.
"""

from __future__ import annotations

import sysconfig
import venv
from pathlib import Path


def make(folder: Path, tree: Path, *lines: str) -> Path:
    """Make the interpreter in `folder`, for the package in `tree`. Out: its path.

    `lines` are executed when it starts, like the `.pth` files of site-packages.
    """
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    # Folders in a .pth file go on the path as they are. The .pth files inside them, such as that of an installation
    # which leads back to the original tree, are not read.
    paths = [str(tree), sysconfig.get_path("purelib"), *lines]
    (site / "tree.pth").write_text("".join(f"{line}\n" for line in paths))
    python = folder / "bin" / "python"
    command = folder / "bin" / "lambda-pool"
    command.write_text(f"#!{python}\nimport sys\nfrom lambda_pool.cli import main\nsys.exit(main())\n")
    command.chmod(0o755)
    return python
