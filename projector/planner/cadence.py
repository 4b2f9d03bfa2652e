"""When a mission runs next: its cadence, in its owner's time zone.

Wall-clock cadences (daily, weekly, cron) name times of the calendar, and each of them once: a time that a spring night
skips moves forward by the gap (02:30 is 03:30 that day, and 02:30 again the next), one that an autumn night has twice
is the first of the two. A cron expression that names every hour follows passing time instead, like an interval: it
fires in both of the doubled hours, and in no skipped one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

MIN_INTERVAL = timedelta(minutes=1)
MAX_INTERVAL_MINUTES = 10 * 366 * 24 * 60
# Longer than anybody writes one, and short enough for every number in it to be read.
MAX_EXPRESSION = 200

_DAY = timedelta(days=1)
_MILLISECOND = timedelta(milliseconds=1)


class InvalidCadence(Exception):  # a verdict on data, not a fault of the program
    """A cadence that names no time; the text says why."""


def next_run(cadence: object, after: datetime, zone: ZoneInfo, *, slot: datetime | None = None) -> datetime | None:
    """The first run later than `after`, in UTC and whole milliseconds; None for a mission only started by hand.

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
    # Its text stays out of this one, which is logged: a device may have stored anything, ciphertext too.
    raise InvalidCadence("unknown kind of cadence")


def names_times(cadence: object) -> bool:
    """Whether a mission with this cadence runs by itself at all."""
    if isinstance(cadence, Mapping) and cadence.get("kind") == "cron":
        expression = cadence.get("expression")
        return isinstance(expression, str) and len(expression) <= MAX_EXPRESSION and _names_times(expression)
    try:
        return next_run(cadence, datetime.now(UTC), ZoneInfo("UTC")) is not None
    except InvalidCadence:
        return False


@lru_cache(maxsize=2048)
def _names_times(expression: str) -> bool:
    """Remembered, because 50 years are looked through for one that names no time, each time that it is asked about."""
    try:
        _cron(expression, datetime.now(UTC), ZoneInfo("UTC"))
    except InvalidCadence:
        return False
    return True


def _interval(cadence: Mapping[str, Any], after: datetime, slot: datetime) -> datetime:
    minutes = cadence.get("everyMinutes")
    if isinstance(minutes, bool) or not isinstance(minutes, (int, float)):
        raise InvalidCadence("everyMinutes is no number")
    if not 0 < minutes <= MAX_INTERVAL_MINUTES:
        raise InvalidCadence("everyMinutes is out of range")
    # The log keeps milliseconds: what is less would be lost there, each time anew.
    period = max(round(timedelta(minutes=minutes) / _MILLISECOND) * _MILLISECOND, MIN_INTERVAL)
    following = slot + period * ((after - slot) // period + 1) if slot <= after else slot
    return following.astimezone(UTC) + timedelta(microseconds=-following.microsecond % 1000)


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
    if not isinstance(expression, str) or len(expression) > MAX_EXPRESSION or len(expression.split()) != 5:
        raise InvalidCadence("a cron expression has five fields")
    # The order of wall times is that of the instants but around a change of the clock: so far behind `after`, and
    # behind what was found, another one may still come first.
    slack = abs(_offset(after + _DAY, zone) - _offset(after - _DAY, zone))
    try:
        # Without a zone: it would move what a gap skips to the end of the gap, and treats `*/15 2` unlike `0 2`.
        wall_times = CronSim(expression, _wall(after, zone) - slack)
    except CronSimError as error:
        raise InvalidCadence(f"cron: {error}") from None
    every_hour = len(wall_times.hours) == 24
    first: datetime | None = None
    for wall in wall_times:
        if first is not None and wall > _wall(first, zone) + slack:
            break
        for moment in _instants(wall, zone, every_hour=every_hour):
            if moment > after and (first is None or moment < first):
                first = moment
    if first is None:
        raise InvalidCadence("cron: no such day exists")
    return first


def _instants(wall: datetime, zone: ZoneInfo, *, every_hour: bool) -> list[datetime]:
    earlier, later = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if earlier == later or not every_hour:
        return [earlier]
    # Before a gap the offset is the smaller one, and what it makes of a skipped time lies behind the gap.
    return [earlier, later] if earlier < later else []


def _wall(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None, "a zone always has one"
    return offset
