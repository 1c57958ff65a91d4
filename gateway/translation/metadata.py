"""Names that moegate.v1 uses beside its messages: error domain and trailing metadata.

The gRPC door writes them, and the client of another moegate reads them.
"""

from __future__ import annotations

ERROR_DOMAIN = "moegate"
"""`domain` of the gateway's google.rpc.ErrorInfo."""
USAGE_TRAILER = "moegate-usage-bin"
"""Usage of an incomplete answer, a serialised `Usage`."""
COST_TRAILER = "moegate-cost-bin"
"""Cost of an incomplete answer, a serialised `Cost`."""
PUSHBACK_TRAILER = "grpc-retry-pushback-ms"
"""When gRPC's own retry policy may try again, milliseconds; negative: never."""
