"""A front of a cluster leaves a leader that another one has replaced, and waits for its own one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.cluster.roles import Roles
from gateway.leadership.candidate import Leader
from gateway.link.wire.connection import Connection
from gateway.link.wire.tls_transport import LinkServer, bound
from tests.gateway.link.test_tls_transport import certificates, echo, plain

WAIT_S = 30.0


@dataclass
class Leads:
    """What `Roles` asks of `Leadership`."""

    leader: Leader | None
    term: int = 0
    suspected: list[Leader] = field(default_factory=list)

    def suspect(self, leader: Leader) -> None:
        self.suspected.append(leader)


class Own:
    """What `Roles` asks of the leader's side in its process."""

    def __init__(self, term: int) -> None:
        self.term = term
        self.connected: list[Connection] = []

    async def connect_own(self, connection: Connection) -> None:
        self.connected.append(connection)


def leader(term: int, address: str = "127.0.0.1:1") -> Leader:
    return Leader(term=term, name=f"p{term}", address=address, wire_version=1)


def made(folder: Path, leads: Leads) -> Roles:
    around: Any = SimpleNamespace(certificates=certificates(folder / "member", "moegate"))
    metrics: Any = None
    roles = Roles(around, metrics)
    leadership: Any = leads
    roles.leadership = leadership
    return roles


async def test_a_leader_that_does_not_answer_is_left_when_another_one_leads(tmp_path: Path) -> None:
    listener = await bound("127.0.0.1:0")  # nobody accepts, as if it were stopped
    host, port = listener.getsockname()
    stopped = leader(4, f"{host}:{port}")
    leads = Leads(stopped)
    roles = made(tmp_path, leads)
    connecting = asyncio.create_task(roles.connect(stopped, plain))
    accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
    roles.notify_changed()  # nothing new
    await asyncio.sleep(0)
    assert not connecting.done()
    leads.leader = leader(5)
    roles.notify_changed()
    with pytest.raises(OSError, match="another process leads: p5"):
        await asyncio.wait_for(connecting, WAIT_S)
    assert leads.suspected == [stopped]
    accepted.close()
    listener.close()


async def test_a_connection_to_a_leader_ends_when_another_one_leads(tmp_path: Path) -> None:
    listener = await bound("127.0.0.1:0")
    host, port = listener.getsockname()
    first = leader(4, f"{host}:{port}")
    leads = Leads(first)
    roles = made(tmp_path, leads)
    connecting = asyncio.create_task(roles.connect(first, plain))
    server = LinkServer(listener, certificates(tmp_path / "leader", "moegate"), echo)
    connection = await asyncio.wait_for(connecting, WAIT_S)
    roles.notify_changed()
    before = connection.lost
    assert before == ""
    leads.leader = leader(5)
    roles.notify_changed()
    assert connection.lost == "another process leads: p5"
    server.close()


async def test_a_front_waits_for_the_scheduler_of_its_own_process(tmp_path: Path) -> None:
    leads = Leads(leader(4), term=4)
    roles = made(tmp_path, leads)
    connecting = asyncio.create_task(roles.connect(leader(4), plain))
    await asyncio.sleep(0)
    assert not connecting.done()
    own: Any = Own(4)
    roles.side = own
    roles._notify()
    connection = await asyncio.wait_for(connecting, WAIT_S)
    assert own.connected == [connection]


async def test_it_does_not_wait_for_a_scheduler_that_will_not_start(tmp_path: Path) -> None:
    leads = Leads(leader(4), term=4)
    roles = made(tmp_path, leads)
    connecting = asyncio.create_task(roles.connect(leader(4), plain))
    await asyncio.sleep(0)
    leads.leader, leads.term = None, 0
    roles.notify_changed()
    with pytest.raises(OSError, match="leads no more"):
        await asyncio.wait_for(connecting, WAIT_S)
