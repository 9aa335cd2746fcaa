"""What the built metadata says of the repository: its addresses, and a README whose links lead there.

The repository's address stands in one place, `[tool.hatch.metadata.hooks.custom]` in pyproject.toml; the variable
LAMBDA_POOL_REPOSITORY, which the release workflow sets, wins. A package index shows the README without the repository
around it, where a relative link would lead nowhere.
"""

import os
import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

# [text](target), ![text](target), and the attributes of HTML.
_LINK = re.compile(
    r"""(?P<before>(?P<mark>!?)\[(?:[^\[\]]|\[[^\]]*\]\([^)]*\))*\]\(|\b(?P<name>href|src|srcset)=")(?P<target>[^)"\s]+)"""
)
_PICTURE = re.compile(r"(?P<before>(?P<mark>!)\[[^\[\]]*\]\()(?P<name>)(?P<target>[^)\s]+)")
_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:|//|#", re.IGNORECASE)


def absolute(text: str, repository: str, revision: str) -> str:
    """The page with every relative link led to this revision of the repository; pictures to the files themselves."""

    def lead(match: re.Match[str]) -> str:
        target = match["target"]
        if _ABSOLUTE.match(target):
            return match[0]
        kind = "raw" if match["mark"] or match["name"] in {"src", "srcset"} else "blob"
        return f"{match['before']}{repository}/{kind}/{revision}/{target.removeprefix('./')}"

    # A picture may be the text of a link, which is led there first.
    return _LINK.sub(lead, _PICTURE.sub(lead, text))


class CustomMetadataHook(MetadataHookInterface):
    """Fills the fields `urls` and `readme`."""

    def update(self, metadata: dict) -> None:
        """Called by hatchling for each build."""
        repository = (os.environ.get("LAMBDA_POOL_REPOSITORY") or self.config["repository"]).rstrip("/")
        root = Path(self.root)
        [version] = re.findall(
            r'^__version__ = "(.+)"$', (root / "lambda_pool" / "__init__.py").read_text(), re.MULTILINE
        )
        revision = f"v{version}"
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": absolute((root / "README.md").read_text(), repository, revision),
        }
        metadata["urls"] = {
            "Homepage": repository,
            "Documentation": f"{repository}/tree/{revision}/docs",
            "Changelog": f"{repository}/blob/{revision}/CHANGELOG.md",
            "Issues": f"{repository}/issues",
            "Source": repository,
        }
