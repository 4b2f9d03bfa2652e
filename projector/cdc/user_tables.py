"""What the change stream keeps of users: changes that no topic can hold, and rows that a fill is to take."""

from __future__ import annotations

from projector.sql.user_tables import UserTable

# How far a fill has come: the row is the fill's, and is not deleted.
FILLS = UserTable("projector_cdc", "cdc_fills", "user_id = %(user)s and finished_at is null")
TABLES = (UserTable("projector_cdc", "cdc_dead_letters"), UserTable("projector_cdc", "cdc_fill_rows"))
