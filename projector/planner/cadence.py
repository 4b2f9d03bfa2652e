"""When a mission runs next: its cadence, in its owner's time zone.

Wall-clock cadences follow the calendar. A time that a spring night skips moves forward by the gap (02:30 is
03:30 that day, and 02:30 again the next), one that an autumn night has twice is the first of the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

MIN_INTERVAL = timedelta(minutes=1)
MAX_INTERVAL_MINUTES = 10 * 366 * 24 * 60


class InvalidCadence(Exception):  # a verdict on data, not a fault of the program
    """A cadence that names no time; the text says why."""


def next_run(cadence: object, after: datetime, zone: ZoneInfo, *, slot: datetime | None = None) -> datetime | None:
    """The first run later than `after`, in UTC; None for a mission that is only started by hand.

    `slot` is the time the mission was due: intervals count from it, so that they do not drift, and however many
    of them were missed, only the next one is named. All datetimes carry a zone. Raises InvalidCadence.
    """
    if not isinstance(cadence, Mapping):
        raise InvalidCadence("the cadence is no object")
    kind = cadence.get("kind")
    if kind == "manual":
        return None
    if kind == "interval":
        return _interval(cadence, after, slot or after)
    if kind == "daily":
        return _on_days(_clock(cadence), after, zone, weekday=None)
    if kind == "weekly":
        return _on_days(_clock(cadence), after, zone, weekday=_whole(cadence, "dayOfWeek", 6))
    if kind == "cron":
        return _cron(cadence.get("expression"), after, zone)
    raise InvalidCadence(f"unknown kind of cadence: {str(kind)[:40]!r}")


def _interval(cadence: Mapping[str, Any], after: datetime, slot: datetime) -> datetime:
    minutes = cadence.get("everyMinutes")
    if isinstance(minutes, bool) or not isinstance(minutes, (int, float)):
        raise InvalidCadence("everyMinutes is no number")
    if not 0 < minutes <= MAX_INTERVAL_MINUTES:
        raise InvalidCadence("everyMinutes is out of range")
    period = max(timedelta(minutes=minutes), MIN_INTERVAL)
    if slot > after:
        return slot.astimezone(UTC)
    return (slot + period * (math.floor((after - slot) / period) + 1)).astimezone(UTC)


def _clock(cadence: Mapping[str, Any]) -> time:
    # A weekly cadence of today's clients has no minute: the full hour.
    minute = 0 if cadence.get("atMinute") is None else _whole(cadence, "atMinute", 59)
    return time(_whole(cadence, "atHour", 23), minute)


def _whole(cadence: Mapping[str, Any], name: str, top: int) -> int:
    value = cadence.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidCadence(f"{name} is no number")
    if not 0 <= value <= top or value != int(value):
        raise InvalidCadence(f"{name} is no whole number from 0 to {top}")
    return int(value)


def _on_days(clock: time, after: datetime, zone: ZoneInfo, *, weekday: int | None) -> datetime:
    today = after.astimezone(zone).date()
    # A skipped wall time lands after the gap, so yesterday's can lie ahead of `after` as well.
    for offset in range(-1, 9):
        day = today + timedelta(days=offset)
        if weekday is None or _sunday_based(day) == weekday:
            candidate = datetime.combine(day, clock, zone).astimezone(UTC)
            if candidate > after:
                return candidate
    raise AssertionError("nine days hold every weekday")


def _sunday_based(day: date) -> int:
    return day.isoweekday() % 7


def _cron(expression: object, after: datetime, zone: ZoneInfo) -> datetime:
    if not isinstance(expression, str) or len(expression.split()) != 5:
        raise InvalidCadence("a cron expression has five fields")
    try:
        times = CronSim(expression, after.astimezone(zone))
    except CronSimError as error:
        raise InvalidCadence(f"cron: {error}") from None
    for moment in times:
        if moment.astimezone(UTC) > after:
            return moment.astimezone(UTC)
    raise InvalidCadence("cron: no such day exists")
