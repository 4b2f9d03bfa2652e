"""The inputs that a mission links: references in its record, resolved to what the model is told of them.

`refs` reads the references, `records` fetches what they name, `kinds` says what each kind tells of a record, and
`resolve` puts these together. What cannot be told is a gap: the mission runs without it, and the prompt says so.
"""

from __future__ import annotations
