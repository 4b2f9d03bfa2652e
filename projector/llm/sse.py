"""Server-sent events, as bytes come in and as they go out; without I/O."""

from __future__ import annotations

from projector.errors import AnswerFormatError

LONGEST_EVENT = 4 * 1024 * 1024
DONE = b"data: [DONE]\n\n"
BOM = b"\xef\xbb\xbf"


class Events:
    """Collects the data of events out of pieces of a stream. Comments, names and ids of events are passed over.

    A line ends with LF, CR or both; the mark of the order of bytes at the beginning is none of the first line.
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._rest_size = 0
        self._data: list[bytes] = []
        self._size = 0
        self._begun = False
        self._after_cr = False

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that are complete now. Raises AnswerFormatError for one that is longer than `LONGEST_EVENT`."""
        events = []
        for line in self._lines(piece):
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data) if len(self._data) > 1 else self._data[0])
                    self._data, self._size = [], 0
            elif line.startswith(b"data:") or line == b"data":
                data = line[6:] if line[5:6] == b" " else line[5:]
                # The line break is counted too: empty ones have a limit like any.
                self._size += len(data) + 1
                self._data.append(data)
        if self._rest_size + self._size > LONGEST_EVENT:
            raise AnswerFormatError(f"an event of the stream is longer than {LONGEST_EVENT} bytes")
        return events

    def end(self) -> list[bytes]:
        """What stands at the end without the empty line that should follow it."""
        return self.feed(b"\n\n")

    def _lines(self, piece: bytes) -> list[bytes]:
        """The lines that are complete now; the beginning of the next is kept in pieces, each of which is read once."""
        if self._after_cr and piece:
            # The end of the line before, in two pieces.
            piece = piece.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in piece:
            self._after_cr = piece.endswith(b"\r")
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        first, *others = piece.split(b"\n")
        self._rest.append(first)
        self._rest_size += len(first)
        if not others:
            return []
        lines = [b"".join(self._rest), *others[:-1]]
        self._rest, self._rest_size = [others[-1]], len(others[-1])
        if not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(BOM)
        return lines


def event(data: bytes) -> bytes:
    """One event; `data` is JSON, which has no line breaks."""
    return b"data: " + data + b"\n\n"
