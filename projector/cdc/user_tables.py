"""What the change stream keeps of users: changes that no topic can hold, and rows that a fill is to take."""

from __future__ import annotations

from projector.sql.user_tables import UserTable

TABLES = (UserTable("projector_cdc", "cdc_dead_letters"), UserTable("projector_cdc", "cdc_fill_rows"))
