"""Maps service classes between moegate.v1 and the scheduler."""

from __future__ import annotations

from moegate.v1 import generation_pb2
from scheduler.contract import SloClass

CLASS_OF = {
    generation_pb2.SLO_CLASS_INTERACTIVE: SloClass.INTERACTIVE,
    generation_pb2.SLO_CLASS_STANDARD: SloClass.STANDARD,
    generation_pb2.SLO_CLASS_BATCH: SloClass.BATCH,
}
PROTO_OF = {slo_class: proto for proto, slo_class in CLASS_OF.items()}
