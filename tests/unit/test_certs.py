"""The certificate authorities that are shipped: each parses, is what it says, and is in date."""

import re
import subprocess
import sys
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from lambda_pool import certs

FOLDER = Path(certs.__file__).parent
FILES = sorted(FOLDER.glob("*.pem"))
REGIONS = [file.stem for file in FILES if file.stem not in {"all", "proxy"}]
# So that a release made half a year later still works.
LEAST_DAYS = 180


def read(path: Path) -> list[x509.Certificate]:
    with warnings.catch_warnings():
        # Starfield's root has the serial number 0, which RFC 5280 does not allow.
        warnings.simplefilter("ignore")
        return x509.load_pem_x509_certificates(path.read_bytes())


def name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_is_an_authority_that_signed_itself_and_is_in_date(file: Path) -> None:
    certificates = read(file)
    assert len(certificates) == file.read_text().count("BEGIN CERTIFICATE") > 0
    for certificate in certificates:
        certificate.verify_directly_issued_by(certificate)
        assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca, name(certificate)
        assert certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign, name(certificate)
        assert certificate.not_valid_before_utc < datetime.now(UTC), name(certificate)
        left = certificate.not_valid_after_utc - datetime.now(UTC)
        assert left > timedelta(days=LEAST_DAYS), f"{name(certificate)}: run scripts/refresh_certs.py"


@pytest.mark.parametrize("region", REGIONS)
def test_a_region_has_its_own_three(region: str) -> None:
    names = [name(certificate) for certificate in read(FOLDER / f"{region}.pem")]
    # https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.SSL.html names these three.
    assert names == [f"Amazon RDS {region} Root CA {kind} G1" for kind in ("ECC384", "RSA2048", "RSA4096")]


def test_the_older_regions_are_there() -> None:
    assert {"us-east-1", "us-west-2", "eu-west-1", "eu-central-1", "ap-northeast-1", "sa-east-1"} <= set(REGIONS)
    assert len(REGIONS) >= 28


def test_all_is_the_sum_of_the_regions_and_no_public_root() -> None:
    everything = [certificate for region in REGIONS for certificate in read(FOLDER / f"{region}.pem")]
    assert read(FOLDER / "all.pem") == everything


def test_the_roots_of_rds_proxy() -> None:
    assert {name(certificate) for certificate in read(FOLDER / "proxy.pem")} == {
        "Amazon Root CA 1",
        "Amazon Root CA 2",
        "Amazon Root CA 3",
        "Amazon Root CA 4",
        "Starfield Services Root Certificate Authority - G2",
    }


def test_a_path_for_what_is_shipped_alone() -> None:
    assert certs.path("eu-west-1") == str(FOLDER / "eu-west-1.pem")
    assert certs.path("mars-north-1") is None


@pytest.mark.sampled(1 / 3, "3 s")
def test_refreshing_from_the_shipped_files_changes_nothing(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / "refresh_certs.py"
    here = tmp_path / "scripts" / script.name
    here.parent.mkdir()
    here.write_text(script.read_text())
    target = tmp_path / "lambda_pool" / "certs"
    target.mkdir(parents=True)

    def refresh(*sources: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "ignore", str(here), "--from", *map(str, sources)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    done = refresh(FOLDER / "all.pem", FOLDER / "proxy.pem")
    assert done.returncode == 0, done.stderr
    assert {file.name: file.read_text() for file in target.iterdir()} == {file.name: file.read_text() for file in FILES}

    # A source that lacks a region, or that is no source at all, changes nothing.
    for sources, complaint in [
        ([FOLDER / "eu-west-1.pem", FOLDER / "proxy.pem"], "vanish"),
        ([FOLDER / "all.pem"], "Proxy"),
        ([script], "no certificate"),
        ([tmp_path / "missing.pem"], "missing.pem"),
    ]:
        done = refresh(*sources)
        assert done.returncode == 1
        assert re.search(complaint, done.stderr)
        assert len(list(target.iterdir())) == len(FILES)
