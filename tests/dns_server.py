"""A real DNS server on loopback for tests, over UDP, whose answers change."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


@dataclass
class DnsServer:
    """Knows one name, and `others` with one address each. `rcode` other than NOERROR: the only
    answer; `silent`: none at all."""

    name: str
    addresses: list[str] = field(default_factory=list)
    ttl: int = 1
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR
    silent: bool = False
    others: dict[str, str] = field(default_factory=dict)
    address: str = ""
    asked: int = 0

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA | dns.flags.AA
        question = query.question[0]
        if self.rcode is not dns.rcode.NOERROR:
            response.set_rcode(self.rcode)
            return response
        name = question.name.to_text(omit_final_dot=True)
        if name == self.name:
            known = self.addresses
        elif name in self.others:
            known = [self.others[name]]
        else:
            response.set_rcode(dns.rcode.NXDOMAIN)
            return response
        family = {dns.rdatatype.A: ".", dns.rdatatype.AAAA: ":"}.get(question.rdtype)
        found = [address for address in known if family and family in address]
        if found:
            kind = dns.rdatatype.to_text(question.rdtype)
            response.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", kind, *found))
        return response


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server.asked += 1
        if not self._server.silent:
            answer = self._server.answer(dns.message.from_wire(data))
            self._transport.sendto(answer.to_wire(), addr)


@contextlib.asynccontextmanager
async def dns_server(name: str, *addresses: str, port: int = 0) -> AsyncIterator[DnsServer]:
    """Listens until the context is left."""
    server = DnsServer(name=name, addresses=list(addresses))
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Udp(server), local_addr=("127.0.0.1", port)
    )
    host, bound = transport.get_extra_info("sockname")
    server.address = f"{host}:{bound}"
    try:
        yield server
    finally:
        transport.close()
