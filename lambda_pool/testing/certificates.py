"""A throw-away certificate authority and one server certificate, made with the `openssl` command."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_DAYS = "3650"
# Python 3.13 and later verify strictly (VERIFY_X509_STRICT): key usage and key identifiers must be there.
_CA_EXTENSIONS = """\
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""
_SERVER_EXTENSIONS = """\
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {names}
"""
_CONFIG = """\
[req]
distinguished_name = name
[name]
[ca]
"""
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files."""

    ca: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path, names: Sequence[str] = ()) -> Certificates:
    """Write a new authority and a certificate for localhost, 127.0.0.1 and `names` into `folder`.

    Raises RuntimeError when openssl is missing or fails.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        raise RuntimeError("the openssl command was not found: install the package openssl")

    def run(*arguments: str) -> None:
        # It gets nothing from this process's environment, which may hold passwords.
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        done = subprocess.run(
            [openssl, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"openssl {arguments[0]} failed: {done.stderr.strip()}")

    subjects = ["DNS:localhost", "IP:127.0.0.1", *(f"DNS:{name}" for name in names)]
    (folder / "openssl.cnf").write_text(_CONFIG + _CA_EXTENSIONS)
    (folder / "server.ext").write_text(_SERVER_EXTENSIONS.format(names=", ".join(subjects)))
    config = ("-config", "openssl.cnf")
    issue = ("-subj", "/CN=lambda_pool test authority", "-keyout", "ca.key", "-out", "ca.crt")
    run("req", "-x509", *config, "-extensions", "ca", *_NEW_KEY, "-days", _DAYS, *issue)
    run("req", *config, *_NEW_KEY, "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")
    sign = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "server.ext")
    run("x509", "-req", "-in", "server.csr", *sign, "-days", _DAYS, "-out", "server.crt")
    return Certificates(folder / "ca.crt", folder / "server.crt", folder / "server.key")
