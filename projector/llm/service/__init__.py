"""The chains over HTTP, in OpenAI's wire format, for programs that are not this one."""

from __future__ import annotations
