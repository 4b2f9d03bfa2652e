"""Every metric the streams export, in one place: base units, bounded labels, never a user's id."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from projector.config import Settings
from projector.logging import get

__all__ = ["Counter", "Gauge", "Histogram", "serve"]


def serve(settings: Settings) -> None:
    """Serves /metrics on loopback when a port is set."""
    if settings.metrics_port is None:
        return
    server, _ = start_http_server(settings.metrics_port, addr="127.0.0.1")
    get("metrics").info("metrics listening", port=server.server_port)
