"""Lists a layer's content in a file beside it, as CycloneDX (https://cyclonedx.org): layer-….zip → layer-….cdx.json.

    python scripts/write_sbom.py build/layer-*.zip

The list is read from the layer itself, so that it cannot name anything else. The same layer gives the same bytes.
"""

from __future__ import annotations

import email
import hashlib
import sys
import uuid
import zipfile
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.utils import canonicalize_name

sys.path.insert(0, str(Path(__file__).resolve().parent))
from audit import licence_of


class SbomError(Exception):
    """There is no layer, or the written list is not valid."""


def components(layer: Path) -> list[Component]:
    """Every distribution in the layer."""
    found = []
    with zipfile.ZipFile(layer) as archive:
        for name in archive.namelist():
            path = PurePosixPath(name)
            if path.name == "METADATA" and path.parent.suffix == ".dist-info":
                metadata = email.message_from_bytes(archive.read(name))
                licence = licence_of(metadata)
                found.append(
                    Component(
                        type=ComponentType.LIBRARY,
                        name=metadata["Name"],
                        version=metadata["Version"],
                        bom_ref=f"{metadata['Name']}=={metadata['Version']}",
                        purl=PackageURL("pypi", name=canonicalize_name(metadata["Name"]), version=metadata["Version"]),
                        licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
                    )
                )
    if not found:
        raise SbomError(f"{layer} is not a layer: it holds no distribution")
    return found


def bill(layer: Path) -> str:
    """The document, checked against the standard's own schema."""
    digest = hashlib.sha256(layer.read_bytes()).hexdigest()
    whole = Component(
        type=ComponentType.FILE,
        name=layer.name,
        bom_ref=layer.name,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
    )
    bom = Bom(
        components=components(layer),
        serial_number=uuid.UUID(digest[:32]),
        # With the time of building, each document would differ. The layer's own files have no time either.
        metadata=BomMetaData(component=whole, timestamp=datetime(1980, 1, 1, tzinfo=UTC)),
    )
    bom.register_dependency(whole, bom.components)
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise SbomError(f"{layer.name}: what was written is not CycloneDX: {error}")
    return text + "\n"


def main(layers: list[str]) -> int:
    """Write one for each layer."""
    try:
        for layer in map(Path, layers):
            target = layer.with_suffix(".cdx.json")
            target.write_text(bill(layer))
            print(f"{target}: {len(components(layer))} distributions")
    except (SbomError, OSError, zipfile.BadZipFile) as error:
        print(f"sbom: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
