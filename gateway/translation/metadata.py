"""Metadata names and the error domain of moegate.v1.

The gRPC door writes them. The upstream client for another moegate reads them.
"""

from __future__ import annotations

ERROR_DOMAIN = "moegate"
"""`domain` of the gateway's google.rpc.ErrorInfo."""
USAGE_TRAILER = "moegate-usage-bin"
"""Usage of an incomplete answer, as a serialised `Usage`."""
COST_TRAILER = "moegate-cost-bin"
"""Cost of an incomplete answer, as a serialised `Cost`."""
PUSHBACK_TRAILER = "grpc-retry-pushback-ms"
"""Delay before gRPC's retry policy may retry, in milliseconds. Negative: never."""
