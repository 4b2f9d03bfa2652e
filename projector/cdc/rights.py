"""What projector_cdc must be able to do for a fill: tried by the stream before one, and by `projector doctor`.

Each for itself and in order, so that the first refusal tells what is missing: the server gives all of them the same
code, and says the rest in a language of its own.
"""

from __future__ import annotations

from typing import Final, LiteralString, NamedTuple

from psycopg import errors, sql

from projector.errors import HiddenRowsError, PrivilegeError


class Right(NamedTuple):
    """`trial` is SQL for a transaction that is rolled back; `command` mends it, with the name of the database in {}."""

    trial: LiteralString
    lack: str
    why: str
    command: LiteralString
    error: type[PrivilegeError | HiddenRowsError]

    def refused(self, cause: errors.InsufficientPrivilege, database: str) -> PrivilegeError | HiddenRowsError:
        """What to raise, or to tell, when the trial failed."""
        remedy = sql.SQL(self.command).format(sql.Identifier(database)).as_string(None)
        return self.error(f"{self.lack} ({cause.diag.message_primary})", remedy)


RIGHTS: Final = (
    Right(
        # Takes the right to read the table, and row-level security has no say in it.
        "lock table sync_changes in access share mode",
        "projector_cdc may not read sync_changes",
        "rows of before the slot, and of a gap, are published out of the table",
        "grant select on sync_changes to projector_cdc",
        PrivilegeError,
    ),
    Right(
        # A policy that would hide rows is an error then.
        "set local row_security = off; select from sync_changes limit 1",
        "projector_cdc does not see every row of sync_changes: row-level security hides them",
        "rows that a fill does not see would be missing in the topics, and nobody would notice",
        "alter role projector_cdc bypassrls, as a superuser",
        HiddenRowsError,
    ),
    Right(
        "create temporary table tried ()",
        "projector_cdc may not make temporary tables",
        "a fill keeps there which changes the topics hold",
        "grant temporary on database {} to projector_cdc",
        PrivilegeError,
    ),
)
