"""Checks our dependencies: whether they are pinned, how they are licensed, and whether they have known vulnerabilities.

`make audit` runs this in .venv-audit, where every extra and pip-audit are installed. Exit code: 0 all is well,
1 a finding, 2 the vulnerability service could not be asked (pins and licences were checked anyway).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
EXTRAS = (
    *("postgres", "mysql", "aws", "metrics", "otel"),
    *("sqlalchemy", "django", "asyncio", "fastapi"),
    *("testing", "demo"),
)

# Licences that we accept for packages our users install, by their SPDX names. LGPL (psycopg): used as a library,
# unchanged and replaceable. MPL (certifi): the files stay as they are.
ALLOWED = {
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "LGPL-3.0-only",
    "PSF-2.0",
    "0BSD",
    "ISC",
}
# What packages without an SPDX expression say instead: in `License`, or as a classifier.
_SPDX = {
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd license": "BSD-3-Clause",
    "mit license": "MIT",
    "mit no attribution license (mit-0)": "MIT-0",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "gnu lesser general public license v3 (lgplv3)": "LGPL-3.0-only",
    "python software foundation license": "PSF-2.0",
}


def needed(name: str, extras: Iterable[str]) -> dict[str, Distribution]:
    """Every distribution that a distribution with these extras needs here, without itself. Raises
    PackageNotFoundError for one that is not installed.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    queue: list[tuple[str, frozenset[str]]] = [(name, frozenset(extras))]
    while queue:
        each = queue.pop()
        if each in seen:
            continue
        seen.add(each)
        found[canonicalize_name(each[0])] = installed = distribution(each[0])
        for line in installed.requires or ():
            requirement = Requirement(line)
            wanted = [{"extra": extra} for extra in sorted(each[1]) or [""]]
            if requirement.marker is None or any(requirement.marker.evaluate(extra) for extra in wanted):
                queue.append((requirement.name, frozenset(requirement.extras)))
    del found[canonicalize_name(name)]
    return dict(sorted(found.items()))


def pins(text: str) -> dict[str, str]:
    """Map names to versions, from the lines of a constraints file."""
    lines = [Requirement(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found = [each for each in lines if each.marker is None or each.marker.evaluate()]
    exact = {canonicalize_name(each.name): re.fullmatch(r"==([^*]+)", str(each.specifier)) for each in found}
    return {name: pin[1] for name, pin in exact.items() if pin}


def unpinned(installed: dict[str, Distribution], pinned: dict[str, str]) -> list[str]:
    """List what is not pinned, or is pinned to another version than the installed one."""
    return [
        f"{name} {found.version}: constraints.txt pins {f'it to {pinned[name]}' if name in pinned else 'no version'}"
        for name, found in installed.items()
        if pinned.get(name) != found.version
    ]


def licence(found: Distribution) -> str:
    """The SPDX expression of a distribution's licence, as far as it can be found out; empty if it says nothing."""
    return licence_of(found.metadata)


def licence_of(metadata: Any) -> str:
    """The same, from its metadata alone."""
    if metadata["License-Expression"]:
        return str(metadata["License-Expression"])
    classifiers = [line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier", []) if "License ::" in line]
    names = [name for name in classifiers if name.lower() in _SPDX]
    if names:
        return " OR ".join(_SPDX[name.lower()] for name in names)
    own = (metadata["License"] or "").strip()
    return _SPDX.get(own.lower(), own if "\n" not in own else "")


def allowed(expression: str) -> bool:
    """True if all parts of at least one alternative of an SPDX expression are allowed."""
    choices = re.split(r"\s+OR\s+", expression.replace("(", "").replace(")", ""))
    return any(all(part in ALLOWED for part in re.split(r"\s+AND\s+", choice)) for choice in choices)


def forbidden(installed: dict[str, Distribution]) -> list[str]:
    """List what has a licence that is not on the list, or none that could be found out."""
    return [
        f"{name} {found.version} is under {licence(found) or 'a licence that its metadata does not name'}, "
        "which is not on the list in scripts/audit.py"
        for name, found in installed.items()
        if not allowed(licence(found))
    ]


def vulnerable(installed: dict[str, Distribution]) -> tuple[list[str], str]:
    """Known vulnerabilities, and why the search for them was not complete; empty if it was."""
    lines = "".join(f"{name}=={found.version}\n" for name, found in installed.items())
    command = [sys.executable, "-m", "pip_audit", "--requirement", "/dev/stdin", "--no-deps", "--disable-pip"]
    try:
        done = subprocess.run(
            [*command, "--format", "json", "--progress-spinner", "off", "--timeout", "15"],
            input=lines,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [], "the vulnerability service did not answer within ten minutes"
    try:
        answers = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        # Its error names hosts of this machine's set-up, so only its kind is shown.
        last = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        return [], f"the vulnerability service could not be asked ({last.split(':')[0][:80]})"
    return judged(answers, set(installed))


def judged(answers: list[dict[str, object]], names: set[str]) -> tuple[list[str], str]:
    """The findings in pip-audit's answers, and what is missing from them: it did not check what it skipped."""
    findings = []
    looked = set()
    for answer in answers:
        name = canonicalize_name(str(answer["name"]))
        found = answer.get("vulns")
        if "skip_reason" in answer or not isinstance(found, list):
            continue
        looked.add(name)
        findings += [
            f"{name} {answer['version']} has {each['id']}; fixed in {', '.join(each['fix_versions']) or 'no version'}"
            for each in found
        ]
    missing = sorted(names - looked)
    if not missing:
        return findings, ""
    some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
    return findings, f"the vulnerability service does not know {len(missing)} of {len(names)} packages ({some})"


def main() -> int:
    """Check everything, and report it in a few lines."""
    try:
        installed = needed("lambda-pool", EXTRAS)
    except PackageNotFoundError as error:
        print(f"audit: {error.name} is not installed, so nothing was checked: run `make audit`")
        return 2
    findings = unpinned(installed, pins((ROOT / "constraints.txt").read_text())) + forbidden(installed)
    kinds = sorted({licence(found) for found in installed.values()})
    print(f"audit: {len(installed)} packages, of all extras, under {'; '.join(kinds)}")
    vulnerabilities, trouble = vulnerable(installed)
    for finding in findings + vulnerabilities:
        print(f"audit: FINDING: {finding}")
    if trouble:
        print(f"audit: NOT DONE: known vulnerabilities: {trouble}")
    if findings or vulnerabilities:
        return 1
    if trouble:
        print("audit: pins and licences are in order. Run it where the service can be reached before a release")
        return 2
    print("audit: every package is pinned, under an allowed licence, and without a known vulnerability")
    return 0


if __name__ == "__main__":
    sys.exit(main())
