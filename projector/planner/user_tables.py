"""What the planner keeps of users: the run ledger, who read of it, their time zones, and research done for them.

Runs come first: a worker that is storing a step holds its run, so whatever it stored is there to be deleted after.
One that has not begun to finds no run, and has lost its lease. Likewise what retention writes down of runs that it
deletes is there once they are gone.
"""

from __future__ import annotations

from projector.sql.user_tables import UserTable

TABLES = tuple(
    UserTable("projector_planner", table)
    for table in (
        "mission_runs",
        "run_steps",
        "token_usage",
        "pruned_runs",
        "user_zones",
        "mission_research_jobs",
        "content_reads",
    )
)
