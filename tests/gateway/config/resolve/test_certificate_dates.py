"""The dates of certificates, as another implementation reads them."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from cryptography import x509

from gateway.config.resolve.certificate_dates import validities


def test_dates_are_those_that_the_cryptography_package_reads() -> None:
    rng = random.Random(1)
    for _ in range(20):
        authority = trustme.CA(organization_name="x" * rng.randrange(1, 60))
        begin = datetime(1960, 1, 1, tzinfo=UTC) + timedelta(days=rng.randrange(80 * 365))
        end = begin + timedelta(days=rng.randrange(1, 40 * 365), seconds=5)
        issued = authority.issue_cert("localhost", not_before=begin, not_after=end)
        pem = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        pem += b"a comment\n" + authority.cert_pem.bytes()
        expected = [
            (one.not_valid_before_utc.timestamp(), one.not_valid_after_utc.timestamp())
            for one in x509.load_pem_x509_certificates(pem)
        ]
        assert len(expected) == 2
        assert [(one.from_s, one.to_s) for one in validities(pem)] == expected


def test_years_of_four_digits() -> None:
    end = datetime(2090, 5, 6, 7, 8, 9, tzinfo=UTC)
    issued = trustme.CA().issue_cert("localhost", not_after=end)
    (dates,) = validities(issued.cert_chain_pems[0].bytes())
    assert dates.to_s == end.timestamp()


@pytest.mark.parametrize("body", ["", "AAAA", "MAA=", "MIIB", "?", "MAMCAQE="])
def test_what_is_no_certificate_is_refused_or_ignored(body: str) -> None:
    pem = f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n".encode()
    with pytest.raises(ValueError, match="no certificate"):
        validities(pem)
    assert validities(b"nothing") == []
