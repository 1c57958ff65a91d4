"""The fence: only the leader of a cluster writes to the ledger.

Table `leader` has one row for each cluster: who leads, in which term, until when. Each new leader
counts the term up. A transaction of the ledger ends by locking the row of its own term
(`FOR KEY SHARE`): a leader of a later term can be made only before this lock, and then there is no
such row, or after the commit. So what an old leader writes is refused, and what it has written is
visible to the new one. A renewal of the lease changes no key of the row and waits for no writer.

The table stands outside of the ledger's steps (`migrations.py`): processes of two versions read it
during an upgrade.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.accounting.ledger.database import LedgerUnavailable, Tx

TABLE = """CREATE TABLE IF NOT EXISTS leader (
    cluster TEXT NOT NULL UNIQUE,
    term BIGINT NOT NULL,
    name TEXT NOT NULL,
    address TEXT NOT NULL,
    wire_version BIGINT NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (cluster, term)
)"""
"""The term is part of a key, so that an update of it waits for `FOR KEY SHARE`."""


class LedgerFenced(LedgerUnavailable):
    """Another process leads the cluster: this one may write nothing more."""


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to write of one leader. `cluster`: a `Name`; `term`: its term."""

    cluster: str
    term: int

    @property
    def sql(self) -> str:
        """A query that locks the row of the term; no row: the term is over."""
        assert "'" not in self.cluster
        return (
            f"SELECT term FROM leader WHERE cluster = '{self.cluster}' AND term = {self.term}"
            " FOR KEY SHARE"
        )

    async def check(self, tx: Tx) -> None:
        """Lets the transaction commit only as that of the leader. Raises LedgerFenced."""
        if not await tx.rows(self.sql):
            raise self.refusal()

    def refusal(self) -> LedgerFenced:
        """Returns the error of a write after the end of the term."""
        return LedgerFenced(f"term {self.term} of cluster {self.cluster} is over")
