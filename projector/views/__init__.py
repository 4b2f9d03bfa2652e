"""Views: tables that hold the fold of the log, and what keeps, rebuilds and checks them."""

from __future__ import annotations
