"""The local PostgreSQL and Kafka of `projector dev`, the demo, the tests and the benchmarks."""

from __future__ import annotations
