"""Server-sent events, as bytes come in and as they go out; without I/O."""

from __future__ import annotations

from projector.errors import AnswerFormatError

LONGEST_EVENT = 4 * 1024 * 1024
DONE = b"data: [DONE]\n\n"


class Events:
    """Collects the data of events out of pieces of a stream. Comments, names and ids of events are passed over."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that are complete now. Raises AnswerFormatError for one that is longer than `LONGEST_EVENT`."""
        lines = (self._rest + piece).split(b"\n") if self._rest else piece.split(b"\n")
        self._rest = lines.pop()
        events = []
        for line in lines:
            if line.endswith(b"\r"):
                line = line[:-1]
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data) if len(self._data) > 1 else self._data[0])
                    self._data, self._size = [], 0
            elif line.startswith(b"data:"):
                data = line[6:] if line[5:6] == b" " else line[5:]
                self._size += len(data)
                self._data.append(data)
        if len(self._rest) + self._size > LONGEST_EVENT:
            raise AnswerFormatError(f"an event of the stream is longer than {LONGEST_EVENT} bytes")
        return events

    def end(self) -> list[bytes]:
        """What stands at the end without the empty line that should follow it."""
        return self.feed(b"\n\n")


def event(data: bytes) -> bytes:
    """One event; `data` is JSON, which has no line breaks."""
    return b"data: " + data + b"\n\n"
