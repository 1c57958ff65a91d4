"""Fits the bound on connections into the limit on open files of the process.

Without it, connections of unknown callers could take the files that upstream connections need.
"""

from __future__ import annotations

import logging
import resource

log = logging.getLogger(__name__)

OTHER_FILES = 1024
"""Files beside the connections of callers: upstream connections, ledger, logs."""


def connections_that_fit(wanted: int) -> int:
    """Raises the soft limit on open files as far as `wanted` connections need it. Returns how many
    of them fit, at least one, and logs a warning if those are fewer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    fitting = max(1, soft - OTHER_FILES, soft // 2)
    if fitting < wanted:
        log.warning(
            "server.max_connections: %d of %d, as the process may open %d files only",
            fitting,
            wanted,
            soft,
        )
    return min(fitting, wanted)
