"""Certificates with every kind of fault, made in memory."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True)
class Identity:
    """A certificate, its key, and the intermediates that are sent along (PEM)."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    sent_along: str = ""

    @property
    def pem(self) -> str:
        """The certificate and the intermediates."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode() + self.sent_along

    @property
    def key_pem(self) -> str:
        """The private key."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()


def make(
    name: str,
    issuer: Identity | None = None,
    *,
    ca: bool = False,
    names: Sequence[str] = ("localhost", "127.0.0.1"),
    days: tuple[int, int] = (-1, 30),
    by_the_book: bool = True,
) -> Identity:
    """A certificate for `name`, signed by `issuer` (None: by itself), valid from and until so many days from now.

    by_the_book=False leaves out what RFC 5280 demands but few check: key identifiers, and that an authority's basic
    constraints are critical. RDS's own roots lack the authority's key identifier.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=by_the_book)
    )
    if ca:
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = builder.add_extension(usage, critical=True)
    else:
        general = [_general(each) for each in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    if by_the_book:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        if issuer is not None:
            whose = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
            builder = builder.add_extension(whose, critical=False)
    certificate = builder.sign(issuer.key if issuer else key, hashes.SHA256())
    # A root is not sent along; a certificate that an intermediate signed sends the intermediate.
    above = issuer.pem if issuer is not None and issuer.certificate.issuer != issuer.certificate.subject else ""
    return Identity(certificate, key, above)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
