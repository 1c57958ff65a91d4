"""The bounds of the queue of one model: of all requests, and of each tenant's share."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.contract import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """Bounds of one queue. `tenant_share`: part of both that one tenant may fill."""

    requests: int
    size_bytes: int
    tenant_share: float = 1.0


class QueueRoom:
    """Counts waiting requests and their bytes, in total and by tenant. Tenants without requests are
    not kept."""

    def __init__(self, limits: QueueLimits) -> None:
        self.limits = limits
        self.requests = 0
        self.size_bytes = 0
        self._by_tenant: dict[str, tuple[int, int]] = {}

    def requests_of(self, tenant: str) -> int:
        """Number of waiting requests of a tenant."""
        return self._by_tenant.get(tenant, (0, 0))[0]

    def add(self, request: Request) -> None:
        """A request begins to wait."""
        self.requests += 1
        self.size_bytes += request.size_bytes
        requests, size_bytes = self._by_tenant.get(request.tenant, (0, 0))
        self._by_tenant[request.tenant] = (requests + 1, size_bytes + request.size_bytes)

    def remove(self, request: Request) -> None:
        """A request waits no longer."""
        self.requests -= 1
        self.size_bytes -= request.size_bytes
        requests, size_bytes = self._by_tenant[request.tenant]
        if requests == 1:
            del self._by_tenant[request.tenant]
        else:
            self._by_tenant[request.tenant] = (requests - 1, size_bytes - request.size_bytes)

    def fits(self, request: Request, leaving: Request | None = None) -> bool:
        """Whether the request fits all bounds, after `leaving` has left."""
        gone = 0 if leaving is None else 1
        gone_bytes = 0 if leaving is None else leaving.size_bytes
        return (
            self.requests - gone < self.limits.requests
            and self.size_bytes - gone_bytes + request.size_bytes <= self.limits.size_bytes
            and self.fits_share(request, leaving)
        )

    def fits_share(self, request: Request, leaving: Request | None = None) -> bool:
        """Whether the request fits its tenant's share, after `leaving` has left. A tenant may
        always have one request."""
        requests, size_bytes = self._by_tenant.get(request.tenant, (0, 0))
        if leaving is not None and leaving.tenant == request.tenant:
            requests, size_bytes = requests - 1, size_bytes - leaving.size_bytes
        limits, share = self.limits, self.limits.tenant_share
        return not requests or (
            requests + 1 <= limits.requests * share
            and size_bytes + request.size_bytes <= limits.size_bytes * share
        )
