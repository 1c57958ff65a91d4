"""The defaults of the configuration, as they travel to the front processes."""

from __future__ import annotations

import msgspec

from gateway.config.gateway import GatewayConfig
from tests import serving


def test_defaults_are_within_their_own_bounds() -> None:
    config = serving.config(pools=[serving.pool(["http://a"])])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=GatewayConfig) == config
