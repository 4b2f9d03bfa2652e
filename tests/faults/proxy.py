"""A network that a test can cut or freeze: forwards TCP on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

CHUNK = 64 * 1024


class Proxy:
    """Forwards what connects to `port` to the port that `upstream` names at that moment."""

    def __init__(self, upstream: Callable[[], int]) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._connections: set[Connection] = set()
        self._lock = threading.Lock()
        self._cut: _Cut | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, after: int, *, upwards: bool = False, limit_s: float = 20.0) -> bool:
        """Closes every connection once `after` more bytes have passed towards the client, or `upwards` to the server.

        The last bytes before the cut are delivered, so the receiver is left with the beginning of a message (unless
        it ends there by chance). Returns when that has happened; False when too few bytes came within `limit_s`.
        """
        cut = self._cut = _Cut(after, upwards)
        happened = cut.happened.wait(limit_s)
        self._cut = None
        return happened

    def freeze(self, *, answers: bool = True) -> None:
        """From now on nothing passes on the present connections, and nobody is told; new ones are not concerned.

        Without `answers` what the server sends still arrives: a client gets its answer, and its next request is held.
        """
        with self._lock:
            for connection in self._connections:
                for upwards in (True, False) if answers else (True,):
                    connection.flows[upwards].clear()

    def thaw(self) -> None:
        """What was held back by `freeze` arrives."""
        with self._lock:
            for connection in self._connections:
                connection.flow()

    def close_frozen(self) -> None:
        """Ends what `freeze` left hanging, without delivering what it holds back."""
        with self._lock:
            frozen = [connection for connection in self._connections if connection.frozen]
        for connection in frozen:
            connection.close()

    def close(self) -> None:
        self._listener.close()
        self._close_all()

    def _close_all(self) -> None:
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._upstream()), timeout=5)
            except OSError:  # the server is down: so is the connection
                client.close()
                continue
            server.settimeout(None)
            connection = Connection(client, server)
            with self._lock:
                self._connections.add(connection)
            for upwards in (True, False):
                threading.Thread(target=self._forward, args=(connection, upwards), daemon=True).start()

    def _forward(self, connection: Connection, upwards: bool) -> None:
        source = connection.client if upwards else connection.server
        flows = connection.flows[upwards]
        try:
            while chunk := source.recv(CHUNK):
                flows.wait()
                if connection.closed:
                    break
                self._deliver(connection, upwards, chunk)
            # The end of a frozen connection is held back like everything else.
            flows.wait()
        except OSError:
            pass
        finally:
            connection.close()
            with self._lock:
                self._connections.discard(connection)

    def _deliver(self, connection: Connection, upwards: bool, chunk: bytes) -> None:
        cut = self._cut
        if cut is not None and cut.upwards == upwards:
            chunk = cut.take(chunk)
        (connection.server if upwards else connection.client).sendall(chunk)
        if cut is not None and cut.reached and not cut.happened.is_set():
            self._close_all()
            cut.happened.set()


class Connection:
    """Both ends of what was let through; while `flows[upwards]` is clear nothing passes in that direction."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.flows = {True: threading.Event(), False: threading.Event()}
        self.flow()
        self.closed = False
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self.closed = True
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):  # it was closed by its other end
                end.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it
            end.close()
        self.flow()

    @property
    def frozen(self) -> bool:
        return not all(flows.is_set() for flows in self.flows.values())

    def flow(self) -> None:
        for flows in self.flows.values():
            flows.set()


class _Cut:
    def __init__(self, after: int, upwards: bool) -> None:
        self.upwards = upwards
        self.happened = threading.Event()
        self._left = after
        self._lock = threading.Lock()

    def take(self, chunk: bytes) -> bytes:
        """The part of `chunk` that still passes."""
        with self._lock:
            passing = chunk[: self._left]
            self._left -= len(passing)
            return passing

    @property
    def reached(self) -> bool:
        return self._left == 0
