"""Which share of the requests of a class has lost its time to first token in the queue, lately.

The mean runs over requests and not over time: short enough to follow a regime of load, long enough
not to turn with every burst.
"""

from __future__ import annotations

WEIGHT = 0.001
"""Weight of one request in the running mean."""
MOST_LOST = 0.02
"""Share beyond which not all can be in time."""


class LostShare:
    """The running mean of one class."""

    __slots__ = ("share",)

    def __init__(self) -> None:
        self.share = 0.0

    def arrived(self) -> None:
        """A request has come."""
        self.share *= 1.0 - WEIGHT

    def lost(self) -> None:
        """The time to first token of a request is lost."""
        self.share += WEIGHT

    @property
    def exceeded(self) -> bool:
        """Whether the class loses more than the few that chance takes."""
        return self.share > MOST_LOST
