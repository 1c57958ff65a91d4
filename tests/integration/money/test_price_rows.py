"""ListPriceRows on a running gateway: the rows, what they price, and who may ask."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from moegate.v1 import usage_pb2, usage_pb2_grpc
from tests import serving
from tests.integration.money.test_pool_cost import OPERATOR, RATE
from tests.integration.money.test_statement import ADMIN, config
from tests.scripted import GOOD, Scripted, listening
from tests.serving import METADATA


async def test_operators_see_price_rows(tmp_path: Path) -> None:
    script = Scripted(GOOD)
    async with listening(script), serving.serving(config(script.url, tmp_path)) as served:
        stub = usage_pb2_grpc.UsageServiceStub(served.channel)
        request = usage_pb2.ListPriceRowsRequest()
        stated, showback, remote = (await stub.ListPriceRows(request, metadata=OPERATOR)).rows
        assert (stated.id, stated.subject) == ("", usage_pb2.PRICE_SUBJECT_GPU_HOUR)
        assert (stated.nano_usd_per_gpu_hour, list(stated.used_by)) == (RATE, ["own"])
        assert "pools[0].gpu.usd_per_gpu_hour" in stated.source
        assert (showback.id, showback.pool) == ("own-2026", "own")
        assert showback.tiers[0].output_nano_usd_per_mtok == 400_000_000
        assert (remote.provider, remote.model, list(remote.used_by)) == ("far", "moe", ["far"])
        assert remote.valid_from.ToJsonString() == "2026-01-01T00:00:00Z"
        assert not remote.HasField("valid_to")
        assert (remote.source, remote.checked_at) == ("test", "2026-01-01")

        earlier = usage_pb2.ListPriceRowsRequest(at=Timestamp(seconds=1_700_000_000))
        answer = await stub.ListPriceRows(earlier, metadata=OPERATOR)
        assert [row.id for row in answer.rows] == [""]
        assert "remote far: no row of far/moe holds at this time" in answer.warnings
        earlier.every_row = True
        answer = await stub.ListPriceRows(earlier, metadata=OPERATOR)
        assert [(row.id, row.holds) for row in answer.rows[1:]] == [
            ("own-2026", False),
            ("far-2026", False),
        ]
        for metadata in (ADMIN, METADATA):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ListPriceRows(request, metadata=metadata)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        bad = usage_pb2.ListPriceRowsRequest(at=Timestamp(seconds=-(10**12)))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListPriceRows(bad, metadata=OPERATOR)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
