"""What fronts have counted stands on the page once, whatever connections break."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from gateway.fronts.messages import Measured
from gateway.fronts.metrics import AllFronts
from gateway.link.host import SchedulerHost
from gateway.link.wire.connection import LinkLost
from gateway.telemetry.page_samples import PageSamples
from gateway.upstream.http.loop_load import LoopLoad


@dataclass
class Front:
    """A connection of a front."""

    incarnation: str
    lost_ends: int = 0
    number: int = 1
    is_broken: bool = False

    @property
    def connection(self) -> Front:
        return self

    async def call(self, name: str, argument: Any, type_: Any) -> Measured:
        if self.is_broken:
            raise LinkLost("broken")
        return Measured(
            page=PageSamples(),
            active_requests=1,
            busy_share=0.5,
            dropped_log_lines=2,
            lost_ends=self.lost_ends,
        )


@dataclass
class Host:
    fronts: list[Front] = field(default_factory=list)
    incarnations: set[str] = field(default_factory=set)


async def test_a_front_that_is_connected_again_is_no_other_front() -> None:
    host = Host([Front("a", 3)], {"a"})
    load = LoopLoad(lambda: 0.0, lambda: 0.0, 0.0)
    fronts = AllFronts(cast(SchedulerHost, host), load)
    await fronts.measure()
    assert (fronts.lost_ends, fronts.active_requests) == (3, 1)
    host.fronts = []  # it may come back
    await fronts.measure()
    assert fronts.lost_ends == 3
    host.fronts = [Front("a", 4)]
    await fronts.measure()
    assert fronts.lost_ends == 4
    host.fronts, host.incarnations = [Front("b")], {"b"}  # its process was started again
    await fronts.measure()
    assert (fronts.lost_ends, fronts.active_requests) == (4, 1)
    host.fronts = [Front("b", is_broken=True)]
    await fronts.measure()
    assert fronts.active_requests == 1, "one that is late is shown as it was"
