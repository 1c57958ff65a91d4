"""Dates between which X.509 certificates are valid, read from PEM files.

The standard library tells them only for a connection that stands. A certificate begins (RFC 5280)
with the version, the serial number, the signature algorithm, the issuer and then the validity.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime

_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL | re.IGNORECASE
)
_SEQUENCE, _VERSION, _UTC_TIME = 0x30, 0xA0, 0x17


@dataclass(frozen=True, slots=True)
class Validity:
    """First and last moment of a certificate, Unix seconds."""

    from_s: float
    to_s: float


def validities(pem: bytes) -> list[Validity]:
    """Returns the dates of the certificates in a PEM file, in its order. Raises ValueError if one
    of them is no certificate."""
    found = []
    for block in _PEM.findall(pem):
        try:
            found.append(_validity(ssl.PEM_cert_to_DER_cert(block.decode("ascii"))))
        except (IndexError, ValueError, OverflowError) as error:
            raise ValueError(f"no certificate: {error}") from None
    return found


def _validity(der: bytes) -> Validity:
    certificate, _ = _element(der, _SEQUENCE)
    fields, _ = _element(certificate, _SEQUENCE)
    if fields[0] == _VERSION:
        _, fields = _element(fields)
    for _ in ("serial number", "signature", "issuer"):
        _, fields = _element(fields)
    dates, _ = _element(fields, _SEQUENCE)
    first_tag, last_tag = dates[0], 0
    first, rest = _element(dates)
    last_tag = rest[0]
    last, _ = _element(rest)
    return Validity(_unix_s(first_tag, first), _unix_s(last_tag, last))


def _element(data: bytes, tag: int | None = None) -> tuple[bytes, bytes]:
    """Returns the content of the first DER element, and what follows it."""
    if tag is not None and data[0] != tag:
        raise ValueError(f"tag {data[0]:#x} in place of {tag:#x}")
    length, at = data[1], 2
    if length & 0x80:
        at += length & 0x7F
        length = int.from_bytes(data[2:at], "big")
    return data[at : at + length], data[at + length :]


def _unix_s(tag: int, text: bytes) -> float:
    digits = text.decode("ascii").removesuffix("Z")
    if tag == _UTC_TIME:  # two digits of the year: 1950 to 2049
        digits = ("19" if digits[:2] >= "50" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
