"""What each kind of provider says on the wire, and nothing else: who is asked, and when, is decided elsewhere."""

from __future__ import annotations
