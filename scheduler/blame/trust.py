"""Whether a placement is believed when it calls a request invalid, or answers with nothing.

A placement whose flags, adapter or chat template are missing rejects good requests at once, also
one that has answered such requests before: it may have been started anew in between. So a rejection
is compared with the word of another placement. Rejections that another placement confirms make a
placement believed: after each, twice as many in a row are passed on without comparison, because
asking about every one would double the cost of requests that really are invalid.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustLimits:
    """When a placement is believed.

    Attributes:
        proof_s: seconds for which an answer, or a confirmed rejection, proves that the placement
            can run requests with these features.
        most_believed: rejections in a row that are believed after many confirmed ones.
        unproven: confirmations that count as one, if those who confirm have not answered any such
            request themselves: two servers may lack the same flag.
        unproven_proof_s: seconds for which these prove anything.
        features: sets of features that are remembered for one placement.
    """

    proof_s: float = 600.0
    most_believed: int = 16
    unproven: int = 3
    unproven_proof_s: float = 60.0
    features: int = 32


@dataclass(slots=True)
class _Word:
    """What is known of a placement's word about requests with the same features."""

    believed: int = 0
    proved_s: float = float("-inf")
    answered_s: float = float("-inf")
    rejections: int = 0
    unproven: int = 0


class Trust:
    """Trust in one placement, by the features of requests."""

    def __init__(self, limits: TrustLimits | None = None) -> None:
        self._limits = limits or TrustLimits()
        self._words: OrderedDict[str, _Word] = OrderedDict()

    def __len__(self) -> int:
        return len(self._words)

    def believes(self, features: str, now: float) -> bool:
        """Whether a rejection of a request with these features is believed without comparison."""
        word = self._words.get(features)
        if word is None or now - word.proved_s > self._limits.proof_s:
            return False
        return word.rejections < word.believed

    def has_answered(self, features: str, now: float) -> bool:
        """Whether the placement has answered such a request lately."""
        word = self._words.get(features)
        return word is not None and now - word.answered_s <= self._limits.proof_s

    def record_answer(self, features: str, now: float) -> None:
        """The placement has answered such a request."""
        word = self._words.get(features) or self._add(features)
        word.proved_s = word.answered_s = now
        word.rejections = word.unproven = 0

    def record_rejection(self, features: str) -> None:
        """The placement has rejected such a request."""
        if (word := self._words.get(features)) is not None:
            word.rejections += 1

    def record_confirmed(self, features: str, now: float, *, is_proven: bool) -> None:
        """Another placement has rejected the same request. `is_proven`: that one has answered such
        requests."""
        limits = self._limits
        word = self._words.get(features) or self._add(features)
        if is_proven:
            self._raise(word)
            word.proved_s, word.rejections, word.unproven = now, 0, 0
            return
        word.unproven += 1
        if word.unproven >= limits.unproven:
            until_s = now + limits.unproven_proof_s
            word.proved_s = max(word.proved_s, until_s - limits.proof_s)
            word.rejections = word.unproven = 0
            self._raise(word)

    def record_refuted(self, features: str) -> None:
        """Another placement has taken a request that this one rejected."""
        self._words.pop(features, None)

    def _raise(self, word: _Word) -> None:
        word.believed = min(self._limits.most_believed, max(1, 2 * word.believed))

    def _add(self, features: str) -> _Word:
        if len(self._words) >= self._limits.features:
            self._words.popitem(last=False)
        word = self._words[features] = _Word()
        return word
