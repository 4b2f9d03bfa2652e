"""Language models behind one small interface, named by aliases."""

from __future__ import annotations
