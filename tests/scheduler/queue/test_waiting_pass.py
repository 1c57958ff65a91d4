"""One pass over the queue: who is tried, in which order, and when it ends."""

from __future__ import annotations

from collections.abc import Mapping

from scheduler.contract import RefusalReason, Refuse, SloClass
from scheduler.policy import Policy
from scheduler.queue.model_queue import ModelQueue, QueueLimits
from scheduler.queue.queued import Queued
from scheduler.queue.waiting_pass import PassResult, TryResult, run_pass
from tests.scheduler.requests_made import request

DEFAULT = Policy()
IN_VAIN = TryResult(None)
RESTRICTED = TryResult(None, restricted=True)


def harmful(prefill_s: float) -> TryResult:
    return TryResult(None, interfering_prefill_s=prefill_s, again_s=7.0)


class Pass:
    """A queue of requests a, b, c ... by prefill 1, 2, 3 ...; `results` of a try, else a start."""

    def __init__(
        self,
        results: Mapping[str, TryResult],
        classes: str = "iiii",
        policy: Policy = DEFAULT,
    ) -> None:
        self.results = results
        self.tried: list[str] = []
        self.queue = ModelQueue(QueueLimits(requests=99, size_bytes=9999), policy)
        kinds = {"i": SloClass.INTERACTIVE, "s": SloClass.STANDARD}
        for i, kind in enumerate(classes):
            self.queue.push(
                Queued(
                    request=request("abcdefgh"[i], kinds[kind]), spill_s=None, last_call_s=90.0,
                    late_s=95.0, expires_s=99.0, prefill_s=i + 1.0, service_s=1.0, work_s=1.0,
                )
            )  # fmt: skip

    def try_start(self, queued: Queued) -> TryResult:
        name = queued.request.request_id
        self.tried.append(name)
        if name in self.results:
            return self.results[name]
        self.queue.remove(name)
        reason = RefusalReason.UNAVAILABLE
        return TryResult(Refuse(request_id=name, reason=reason, message="", retry_after_s=None))

    def run(self, *, quoted: int = 8, restricted: int = 8, put_off: bool = False) -> PassResult:
        return run_pass(
            self.queue, self.try_start, most_quoted=quoted, most_restricted=restricted,
            hold_late=False, try_put_off=put_off,
        )  # fmt: skip


def names(result: PassResult) -> list[str]:
    return [action.request_id for action in result.actions]


def test_all_that_can_start_do_and_one_that_failed_is_tried_once() -> None:
    queue_pass = Pass({"b": IN_VAIN})
    assert names(queue_pass.run()) == ["a", "c", "d"]
    assert queue_pass.tried == ["a", "b", "c", "d"]


def test_tries_in_vain_end_the_pass() -> None:
    queue_pass = Pass({"a": IN_VAIN, "b": IN_VAIN})
    assert names(queue_pass.run(quoted=2)) == []
    assert queue_pass.tried == ["a", "b"]


def test_restricted_ones_have_a_bound_of_their_own() -> None:
    queue_pass = Pass({"a": RESTRICTED, "b": RESTRICTED})
    assert names(queue_pass.run(quoted=1)) == ["c", "d"]
    assert names(Pass({"a": RESTRICTED, "b": RESTRICTED}).run(restricted=2)) == []


def test_a_prefill_that_is_no_shorter_than_a_harmful_one_is_put_off() -> None:
    queue_pass = Pass({"a": harmful(2.5)})
    result = queue_pass.run()
    assert (names(result), result.again_s) == (["b"], 7.0)
    assert queue_pass.tried == ["a", "b"]


def test_what_was_put_off_is_tried_after_the_others_where_that_is_asked_for() -> None:
    queue_pass = Pass({"a": harmful(1.0), "b": IN_VAIN})
    assert names(queue_pass.run(put_off=True)) == ["c", "d"]
    assert queue_pass.tried == ["a", "b", "c", "d"]
    assert names(Pass({"a": harmful(1.0), "b": IN_VAIN}).run(quoted=2, put_off=True)) == ["c"]


def test_what_a_credited_class_has_put_off_twice_starts_once() -> None:
    queue_pass = Pass({"a": harmful(1.5)}, "ssi")
    urgent = queue_pass.queue.remove("c")
    assert urgent is not None
    for _ in range(30):
        queue_pass.queue.credit_lower_classes(urgent)
    assert names(queue_pass.run(put_off=True)) == ["b"]


def test_a_restricted_one_puts_nobody_off() -> None:
    result = TryResult(None, restricted=True, interfering_prefill_s=1.0)
    assert names(Pass({"a": result}).run()) == ["b", "c", "d"]


def test_a_lower_class_waits_for_one_that_competes_and_for_no_other() -> None:
    assert names(Pass({"a": IN_VAIN}, "iiss").run()) == ["b"]
    assert names(Pass({"a": RESTRICTED}, "iiss").run()) == ["b", "c", "d"]
    assert names(Pass({"a": harmful(1.0)}, "iiss").run(put_off=True)) == ["b"]


def test_the_earliest_time_to_try_again_is_told() -> None:
    late, soon = TryResult(None, again_s=9.0), TryResult(None, restricted=True, again_s=3.0)
    assert Pass({"a": late, "b": soon, "c": IN_VAIN}, "iii").run().again_s == 3.0
    assert Pass({"a": IN_VAIN}, "i").run().again_s is None


def test_those_that_wait_for_the_same_are_not_tried_and_those_that_may_differ_are() -> None:
    # Without shedding those that are late are among the others.
    wait = {"b": TryResult(None, all_wait=True)}
    queue_pass = Pass(wait, "iiiii", Policy(shedding=False))
    differs, late, own = (waiting for waiting in queue_pass.queue if waiting.prefill_s > 2.0)
    differs.may_differ = late.late = True
    queue_pass.queue.push(
        Queued(
            request=request("remote"), spill_s=None, last_call_s=90.0, late_s=95.0, expires_s=99.0,
            prefill_s=9.0, service_s=1.0, work_s=1.0, self_hosted=False,
        )
    )  # fmt: skip
    assert names(queue_pass.run()) == ["a", "c", "d", "remote"]
    assert queue_pass.tried == ["a", "b", "c", "d", "remote"]
    assert own.request.request_id in queue_pass.queue


def test_those_that_are_not_tried_count() -> None:
    queue_pass = Pass({"a": TryResult(None, all_wait=True)}, "iiii")
    [*_, last] = queue_pass.queue
    last.may_differ = True
    assert not names(queue_pass.run(quoted=3))
    assert names(queue_pass.run(quoted=4)) == ["d"]
