"""When the pending prefills of a placement are computed, step by step.

An engine computes the prompts that were sent before a step began, together, up to its chunk; those
that are sent during the step share the next one. A prompt that is sent while the engine only
decodes is computed from the end of that step on, which is half over on average.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from scheduler.placement_state import PlacementState
from scheduler.step_time.kv_transfer import NO_TRANSFER, KvTransferTime


class PrefillPhases(NamedTuple):
    """Times on the scheduler's clock.

    Attributes:
        begin_s, end_s: of the steps that compute the first pending prompts.
        computing_s: prefill seconds of these, the decodes in their steps apart.
        waiting_s: prefill seconds of the prompts that share the steps after.
        first_token_due_s: when the first prompt should have its token, a step added.
    """

    begin_s: float
    end_s: float
    computing_s: float
    waiting_s: float
    first_token_due_s: float


NONE_PENDING = PrefillPhases(-math.inf, -math.inf, 0.0, 0.0, math.inf)


def prefill_phases(
    state: PlacementState,
    chunk_s: float,
    step_s: float,
    transfer: KvTransferTime = NO_TRANSFER,
) -> PrefillPhases:
    """The phases of a placement. `chunk_s`: seconds of a full chunk; `step_s`: of a decode step;
    `transfer`: of a computed prompt to the engine that decodes."""
    if not state.pending:
        return NONE_PENDING
    transfer_s = 0.0
    if transfer is not NO_TRANSFER:
        first = state.residents[next(iter(state.pending))].request
        transfer_s = transfer.seconds(first.prompt_tokens)
    each_s = list(state.pending.values())
    computing_s, waiting_s = sum(each_s[: state.computing]), sum(each_s[state.computing :])
    begin_s = state.prefill_began_s + step_s / 2.0 * state.prefill_joined
    # The first token of all that share a step comes at its end.
    first_s = max(each_s[0], min(computing_s, chunk_s))
    return PrefillPhases(
        begin_s=begin_s,
        end_s=begin_s + computing_s + math.ceil(computing_s / chunk_s) * step_s,
        computing_s=computing_s,
        waiting_s=waiting_s,
        first_token_due_s=(
            begin_s + first_s + transfer_s + (1.0 + math.ceil(each_s[0] / chunk_s)) * step_s
        ),
    )
