"""What holds of every cadence, in every zone, whatever its clocks did."""

from __future__ import annotations

from bisect import bisect_right
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from functools import cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from hypothesis import given, settings
from hypothesis import strategies as st

from projector.planner.cadence import InvalidCadence, next_run

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
FIRST_YEAR, LAST_YEAR = 2005, 2037

# Not those of the machine alone: `localtime` and the like are no names of zones.
zones = st.sampled_from(sorted(available_timezones() - {"localtime", "posixrules", "Factory"})).map(ZoneInfo)
moments = st.datetimes(
    datetime(FIRST_YEAR, 1, 1),  # noqa: DTZ001
    datetime(LAST_YEAR, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


def daily(clock: time) -> dict[str, Any]:
    return {"kind": "daily", "atHour": clock.hour, "atMinute": clock.minute}


clocks = st.builds(time, st.integers(0, 23), st.integers(0, 59))
dailies = clocks.map(daily)
weeklies = st.builds(lambda day, clock: daily(clock) | {"kind": "weekly", "dayOfWeek": day}, st.integers(0, 6), clocks)
intervals = st.builds(
    lambda minutes: {"kind": "interval", "everyMinutes": minutes},
    st.one_of(st.integers(1, 100_000), st.floats(1e-9, 5e6)),
)


class Field(NamedTuple):
    text: str
    named: frozenset[int]


class Fields(NamedTuple):
    minute: Field
    hour: Field
    day: Field
    month: Field
    weekday: Field

    @property
    def cadence(self) -> dict[str, Any]:
        return {"kind": "cron", "expression": " ".join(field.text for field in self)}

    def name(self, wall: datetime) -> bool:
        if wall.minute not in self.minute.named or wall.hour not in self.hour.named:
            return False
        of_month, of_week = wall.day in self.day.named, wall.isoweekday() % 7 in self.weekday.named
        either = not self.day.text.startswith("*") and not self.weekday.text.startswith("*")
        return wall.month in self.month.named and (of_month or of_week if either else of_month and of_week)


def every(low: int, high: int) -> st.SearchStrategy[Field]:
    return st.just(Field("*", frozenset(range(low, high + 1))))


def steps(low: int, high: int) -> st.SearchStrategy[Field]:
    return st.integers(2, 9).map(lambda step: Field(f"*/{step}", frozenset(range(low, high + 1, step))))


def some(low: int, high: int, most: int = 4) -> st.SearchStrategy[Field]:
    numbers = st.frozensets(st.integers(low, high), min_size=1, max_size=most)
    return numbers.map(lambda found: Field(",".join(map(str, found)), found))


def spans(low: int, high: int) -> st.SearchStrategy[Field]:
    ends = st.lists(st.integers(low, high), min_size=2, max_size=2).map(sorted)
    return ends.map(lambda found: Field(f"{found[0]}-{found[1]}", frozenset(range(found[0], found[1] + 1))))


# Few minutes, and hours around those at which clocks change: an oracle looks at each.
minutes = st.one_of(some(0, 59, 3), st.just(Field("*/20", frozenset((0, 20, 40)))))
hours = st.one_of(every(0, 23), steps(0, 23), some(0, 4), some(0, 23), spans(0, 23))
days = st.one_of(every(1, 31), every(1, 31), steps(1, 31), some(1, 28), spans(1, 28))
months = st.one_of(every(1, 12), every(1, 12), spans(1, 12))
weekdays = st.one_of(every(0, 6), every(0, 6), steps(0, 6), some(0, 6), spans(0, 6))
crons = st.builds(Fields, minutes, hours, days, months, weekdays)
cadences = st.one_of(dailies, weeklies, intervals, crons.map(lambda fields: fields.cadence))


@settings(max_examples=200)
@given(cadences, moments, st.timedeltas(timedelta(0), 4000 * DAY), zones)
def test_the_next_run_lies_ahead_whatever_was_missed(cadence, after, behind, zone):
    following = next_run(cadence, after, zone, slot=after - behind)
    assert following > after
    assert following.tzinfo is UTC
    assert following.microsecond % 1000 == 0


@settings(max_examples=200)
@given(cadences, moments, st.timedeltas(timedelta(0), 400 * DAY), zones)
def test_whoever_looks_later_does_not_see_an_earlier_run(cadence, after, later, zone):
    slot = after - DAY
    first = next_run(cadence, after, zone, slot=slot)
    second = next_run(cadence, after + later, zone, slot=slot)
    assert first <= second
    # None lies between: until then the first one is the next.
    assert second == first or after + later >= first


@settings(max_examples=200)
@given(st.one_of(dailies, weeklies), moments, zones)
def test_a_run_shows_the_time_of_its_cadence_on_the_owners_clock(cadence, after, zone):
    following = next_run(cadence, after, zone)
    shown = following.astimezone(zone)
    clock = time(cadence["atHour"], cadence["atMinute"])
    if (shown.hour, shown.minute) != (clock.hour, clock.minute):
        # Then its own time was skipped, and this is as far behind the gap as that was in it.
        skipped = [datetime.combine(shown.date() - n * DAY, clock, zone) for n in (0, 1)]
        (meant,) = [wall for wall in skipped if wall.astimezone(UTC) == following]
        assert meant.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != meant.replace(tzinfo=None)
        shown = meant
    if cadence["kind"] == "weekly":
        assert shown.isoweekday() % 7 == cadence["dayOfWeek"]


@given(moments, zones, clocks)
def test_no_day_runs_twice_and_none_is_left_out(after, zone, clock):
    change = clock_change(zone, after.year)
    moment = next_run(daily(clock), change - 3 * DAY, zone)
    for _ in range(6):
        following = next_run(daily(clock), moment, zone)
        # No zone moved by more than three hours in these years, but for whole days at the date line.
        assert timedelta(hours=21) <= following - moment <= timedelta(hours=27)
        moment = following


@given(intervals, moments, st.lists(st.floats(0, 5), min_size=1, max_size=8), zones)
def test_intervals_do_not_drift_however_late_each_run_ends(cadence, start, delays, zone):
    slot = next_run(cadence, start, zone)
    first, period = slot, next_run(cadence, slot, zone, slot=slot) - slot
    for delay in delays:
        ended = slot + period * delay
        slot = next_run(cadence, ended, zone, slot=slot)
        assert ended < slot <= ended + period
        assert (slot - first) % period == timedelta(0)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=4,
)
names = st.sampled_from(["kind", "everyMinutes", "atHour", "atMinute", "dayOfWeek", "expression"])
kinds = st.sampled_from(["manual", "interval", "daily", "weekly", "cron"])
expressions = st.lists(st.text("0123456789*/-,#LW? MONJAN", min_size=1, max_size=6), min_size=5, max_size=5).map(
    " ".join
)


@settings(max_examples=300)
@given(
    st.one_of(
        json_values,
        st.builds(lambda kind, rest: rest | {"kind": kind}, kinds, st.dictionaries(names, json_values, max_size=4)),
        expressions.map(lambda text: {"kind": "cron", "expression": text}),
    ),
    moments,
)
def test_any_value_at_all_is_a_time_ahead_or_none_or_refused(cadence, after):
    with suppress(InvalidCadence):
        following = next_run(cadence, after, ZoneInfo("Europe/Berlin"), slot=after)
        assert following is None or following > after


# A week minute by minute


def clock_change(zone: ZoneInfo, year: int, nth: int = 0) -> datetime:
    """The day within which the zone's offset changes for the n-th time in that year, else its middle."""
    noon = datetime(year, 1, 1, 12, tzinfo=UTC)
    days = [noon + n * DAY for n in range(366)]
    offsets = [day.astimezone(zone).utcoffset() for day in days]
    changes = [day for day, before, after in zip(days, offsets, offsets[1:], strict=False) if before != after]
    return (changes + [days[182]] * 2)[nth]


class Minute(NamedTuple):
    """A minute of time: what the clock shows, whether it shows it again, and what it would show had it not moved."""

    moment: datetime
    wall: datetime
    again: bool
    skipped: datetime | None


@cache
def week(zone: ZoneInfo, year: int, change: int) -> list[Minute]:
    start = clock_change(zone, year, change) - 3 * DAY
    found = []
    for n in range(7 * 24 * 60):
        moment = start + n * MINUTE
        local = moment.astimezone(zone)
        unmoved = (moment + (moment - DAY).astimezone(zone).utcoffset()).replace(tzinfo=None)
        exists = unmoved.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None) == unmoved
        wall = local.replace(tzinfo=None)
        found.append(Minute(moment, wall, local.fold == 1, None if exists else unmoved))
    return found


def fires(fields: Fields, minute: Minute) -> bool:
    if len(fields.hour.named) == 24:
        return fields.name(minute.wall)
    return (not minute.again and fields.name(minute.wall)) or (
        minute.skipped is not None and fields.name(minute.skipped)
    )


# Gaps of one hour, half an hour and two, before midnight and at it; of a whole day; none at all.
restless = [
    ("Europe/Berlin", 2026),
    ("Australia/Lord_Howe", 2026),
    ("Antarctica/Troll", 2026),
    ("America/Scoresbysund", 2024),
    ("Africa/Cairo", 2026),
    ("Pacific/Apia", 2011),
    ("Asia/Kathmandu", 2026),
]


@settings(max_examples=60, deadline=None)
@given(crons, st.sampled_from(restless), st.sampled_from((0, 1)), st.data())
def test_cron_agrees_with_a_clock_watched_minute_by_minute(fields, place, change, data):
    zone = ZoneInfo(place[0])
    watched = week(zone, place[1], change)
    expected = [minute.moment for minute in watched if fires(fields, minute)]
    drawn = data.draw(st.lists(st.integers(0, len(watched) - 1), max_size=10))
    at_change = [moment for moment in expected if abs(moment - watched[len(watched) // 2].moment) < DAY]
    for after in [watched[0].moment, *(watched[n].moment for n in drawn), *at_change[:60]]:
        following = next_run(fields.cadence, after, zone)
        index = bisect_right(expected, after)
        if index < len(expected):
            assert following == expected[index]
        else:
            assert following > watched[-1].moment
