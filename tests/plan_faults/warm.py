"""Loaded once, in the process that all streams are forked from: what each of them would take a second to find anew."""

from __future__ import annotations

import inspect

import faust.app.router
import faust.assignor.partition_assignor
import faust.fixups.django
import faust.tables.manager
import faust.worker  # noqa: F401

import tests.plan_faults.matrix  # noqa: F401

# Every declaration of an agent asks where it stands, and the first who asks that looks up each module's file.
inspect.getmodule(inspect.currentframe())
