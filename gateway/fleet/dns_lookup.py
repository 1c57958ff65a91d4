"""Looks a name up in DNS: its addresses, and for how long they hold."""

from __future__ import annotations

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver

from gateway.config.discovery import DiscoveryConfig
from gateway.fleet.found import Answer, LookupFailed, in_order


class DnsLookup:
    """Looks up one name, each time it is called."""

    def __init__(self, name: str, settings: DiscoveryConfig) -> None:
        self._name = name
        self._settings = settings
        self._resolver: dns.asyncresolver.Resolver | None = None

    async def __call__(self) -> Answer:
        """IPv4 addresses, or IPv6 ones if there are none: a server that has both is one server.

        Raises LookupFailed.
        """
        if self._resolver is None:
            self._resolver = _resolver(self._settings)
        answer = await self._resolve(self._resolver, dns.rdatatype.A)
        if not answer.addresses:
            answer = await self._resolve(self._resolver, dns.rdatatype.AAAA)
        return answer

    async def _resolve(
        self, resolver: dns.asyncresolver.Resolver, kind: dns.rdatatype.RdataType
    ) -> Answer:
        try:
            found = await resolver.resolve(
                self._name,
                kind,
                search=True,
                lifetime=self._settings.timeout_s,
                raise_on_no_answer=False,
            )
        except dns.resolver.NXDOMAIN:
            return Answer(addresses=(), ttl_s=None)
        except dns.resolver.LifetimeTimeout:
            asked = " and ".join(str(server) for server in resolver.nameservers)
            message = f"no answer within {self._settings.timeout_s:g} s from {asked}"
            raise LookupFailed(message) from None
        except (dns.exception.DNSException, OSError) as error:
            raise LookupFailed(str(error) or type(error).__name__) from None
        if found.rrset is None:
            return Answer(addresses=(), ttl_s=None)
        return Answer(
            addresses=in_order(record.address for record in found.rrset),
            ttl_s=float(found.rrset.ttl),
        )


def _resolver(settings: DiscoveryConfig) -> dns.asyncresolver.Resolver:
    """Raises LookupFailed if no DNS server is known: there is no /etc/resolv.conf."""
    try:
        resolver = dns.asyncresolver.Resolver(configure=settings.nameserver is None)
    except dns.exception.DNSException as error:
        raise LookupFailed(str(error)) from None
    if settings.nameserver is not None:
        host, _, port = settings.nameserver.rpartition(":")
        resolver.nameservers = [host.strip("[]")]
        resolver.port = int(port)
    return resolver
