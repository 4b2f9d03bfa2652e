"""One plan written into the log, as the sink writes many."""

from __future__ import annotations

from uuid import UUID
from zoneinfo import ZoneInfo

from projector.planner import writeback
from projector.planner.ledger import Connection
from projector.planner.pace import Pace


async def write_back(conn: Connection, run_id: UUID, user_id: str, *, zone: ZoneInfo, pace: Pace) -> writeback.Result:
    """What became of it; raises PlanVersionError for a plan of an unknown version."""
    (result,) = await writeback.write_back(conn, [(run_id, user_id)], zone=zone, pace=pace)
    if isinstance(result, Exception):
        raise result
    return result
