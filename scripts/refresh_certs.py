"""Refresh the certificate authorities that lambda_pool ships, in lambda_pool/certs.

    python scripts/refresh_certs.py                    # download from AWS
    python scripts/refresh_certs.py --from FILE ...    # take PEM files that were downloaded elsewhere

The script keeps self-signed authorities that stay valid for at least LEAST_DAYS: those of RDS, in one file for each
region and in `all.pem` for all of them, and the public roots that RDS Proxy's certificates chain to (`proxy.pem`). It
leaves out intermediates, which AWS says not to trust on their own, and the authorities of AWS's beta and preview
environments. The new set is exactly what the sources hold. If a region would vanish, that is an error unless
--allow-removal is given.

Exit code: 0 if the files are in place, 1 if a source fails or has the wrong content.
"""

import argparse
import re
import sys
import urllib.request
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

HERE = Path(__file__).resolve().parent.parent / "lambda_pool" / "certs"
# https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.SSL.html,
# https://docs.amazonaws.cn/en_us/AmazonRDS/latest/UserGuide/UsingWithRDS.SSL.html and
# https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/rds-proxy.howitworks.html
SOURCES = (
    "https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem",
    "https://truststore.pki.us-gov-west-1.rds.amazonaws.com/global/global-bundle.pem",
    "https://rds-truststore.s3.cn-north-1.amazonaws.com.cn/global/global-bundle.pem",
    "https://www.amazontrust.com/repository/AmazonRootCA1.pem",
    "https://www.amazontrust.com/repository/AmazonRootCA2.pem",
    "https://www.amazontrust.com/repository/AmazonRootCA3.pem",
    "https://www.amazontrust.com/repository/AmazonRootCA4.pem",
    "https://www.amazontrust.com/repository/SFSRootCAG2.pem",
)
LEAST_DAYS = 180
"""As tests/unit/test_certs.py demands of what is shipped."""
PROXY_ROOTS = {
    "Amazon Root CA 1",
    "Amazon Root CA 2",
    "Amazon Root CA 3",
    "Amazon Root CA 4",
    "Starfield Services Root Certificate Authority - G2",
}
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\s.*?-----END CERTIFICATE-----", re.DOTALL)
_RDS_ROOT = re.compile(r"Amazon RDS ([a-z]+(?:-[a-z]+)+-\d+) Root CA \S+ G\d+")


def common_name(certificate: x509.Certificate) -> str:
    """The subject's CN, or nothing."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def read(text: str) -> list[x509.Certificate]:
    """Every certificate in a PEM text. Raises ValueError if one does not parse."""
    return [x509.load_pem_x509_certificate(pem.encode()) for pem in _PEM.findall(text)]


def is_root(certificate: x509.Certificate, least: datetime) -> bool:
    """True for an authority that signed itself and stays valid until `least`."""
    if certificate.not_valid_after_utc < least or certificate.subject != certificate.issuer:
        return False
    certificate.verify_directly_issued_by(certificate)
    return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def sort(certificates: list[x509.Certificate], least: datetime) -> dict[str, list[x509.Certificate]]:
    """Map file names (without .pem) to certificates, each of them once."""
    found: dict[str, dict[bytes, x509.Certificate]] = defaultdict(dict)
    for certificate in certificates:
        if not is_root(certificate, least):
            continue
        name = common_name(certificate)
        region = _RDS_ROOT.fullmatch(name)
        if region:
            found[region[1]][certificate.fingerprint(SHA256())] = certificate
        elif name in PROXY_ROOTS:
            found["proxy"][certificate.fingerprint(SHA256())] = certificate
        else:
            print(f"left out: {name}")
    return {name: sorted(group.values(), key=common_name) for name, group in sorted(found.items())}


def pem(certificates: list[x509.Certificate]) -> str:
    """The file's text: each certificate below a comment that describes it."""
    return "\n".join(
        f"# {common_name(c)}, until {c.not_valid_after_utc:%Y-%m-%d}\n"
        f"# SHA-256 {c.fingerprint(SHA256()).hex()}\n" + c.public_bytes(Encoding.PEM).decode()
        for c in certificates
    )


def write(groups: dict[str, list[x509.Certificate]]) -> None:
    """Replace the shipped files."""
    regions = [name for name in groups if name != "proxy"]
    for old in HERE.glob("*.pem"):
        old.unlink()
    for name, certificates in groups.items():
        (HERE / f"{name}.pem").write_text(pem(certificates))
    (HERE / "all.pem").write_text(pem([c for name in regions for c in groups[name]]))


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--from", dest="files", nargs="+", type=Path, metavar="FILE", help="PEM files instead of downloads"
    )
    parser.add_argument("--allow-removal", action="store_true", help="a region may vanish")
    arguments = parser.parse_args()
    certificates: list[x509.Certificate] = []
    for source in arguments.files or SOURCES:
        try:
            if isinstance(source, Path):
                text = source.read_text()
            else:
                with urllib.request.urlopen(source, timeout=30) as answer:
                    text = answer.read().decode()
            found = read(text)
        except (OSError, ValueError) as error:
            print(f"{source}: {error}", file=sys.stderr)
            return 1
        if not found:
            print(f"{source}: holds no certificate", file=sys.stderr)
            return 1
        certificates += found
    groups = sort(certificates, datetime.now(UTC) + timedelta(days=LEAST_DAYS))
    if {common_name(c) for c in groups.get("proxy", [])} != PROXY_ROOTS:
        print("the sources do not hold all of RDS Proxy's roots; nothing was changed", file=sys.stderr)
        return 1
    gone = {old.stem for old in HERE.glob("*.pem")} - {"all", *groups}
    if gone and not arguments.allow_removal:
        print(f"these would vanish: {', '.join(sorted(gone))} (--allow-removal); nothing was changed", file=sys.stderr)
        return 1
    write(groups)
    for name, group in groups.items():
        print(f"{name}: {len(group)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
