from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projector.planner.cadence import InvalidCadence, next_run

ZONES = [ZoneInfo("UTC"), ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")]
BERLIN = ZONES[1]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def daily(hour: int, minute: int) -> dict:
    return {"kind": "daily", "atHour": hour, "atMinute": minute}


def weekly(day: int, hour: int) -> dict:
    return {"kind": "weekly", "dayOfWeek": day, "atHour": hour}


TUESDAY = "2026-04-14T10:00Z"
VECTORS = [
    (TUESDAY, daily(18, 30), "2026-04-14T18:30Z", "2026-04-14T16:30Z", "2026-04-14T22:30Z"),
    (TUESDAY, daily(6, 0), "2026-04-15T06:00Z", "2026-04-15T04:00Z", "2026-04-15T10:00Z"),
    (TUESDAY, daily(10, 0), "2026-04-15T10:00Z", "2026-04-15T08:00Z", "2026-04-14T14:00Z"),
    (TUESDAY, daily(12, 0), "2026-04-14T12:00Z", "2026-04-15T10:00Z", "2026-04-14T16:00Z"),
    (TUESDAY, weekly(5, 9), "2026-04-17T09:00Z", "2026-04-17T07:00Z", "2026-04-17T13:00Z"),
    (TUESDAY, weekly(2, 9), "2026-04-21T09:00Z", "2026-04-21T07:00Z", "2026-04-14T13:00Z"),
    (TUESDAY, weekly(2, 10), "2026-04-21T10:00Z", "2026-04-21T08:00Z", "2026-04-14T14:00Z"),
    (TUESDAY, weekly(2, 12), "2026-04-14T12:00Z", "2026-04-21T10:00Z", "2026-04-14T16:00Z"),
    (TUESDAY, weekly(1, 9), "2026-04-20T09:00Z", "2026-04-20T07:00Z", "2026-04-20T13:00Z"),
    (TUESDAY, weekly(0, 0), "2026-04-19T00:00Z", "2026-04-18T22:00Z", "2026-04-19T04:00Z"),
    ("2026-03-28T20:00Z", daily(2, 30), "2026-03-29T02:30Z", "2026-03-29T01:30Z", "2026-03-29T06:30Z"),
    ("2026-10-24T20:00Z", daily(2, 30), "2026-10-25T02:30Z", "2026-10-25T00:30Z", "2026-10-25T06:30Z"),
    ("2026-10-25T00:30Z", daily(2, 30), "2026-10-25T02:30Z", "2026-10-26T01:30Z", "2026-10-25T06:30Z"),
    ("2026-03-25T10:00Z", weekly(0, 2), "2026-03-29T02:00Z", "2026-03-29T01:00Z", "2026-03-29T06:00Z"),
    ("2026-12-31T23:30Z", daily(0, 0), "2027-01-01T00:00Z", "2027-01-01T23:00Z", "2027-01-01T05:00Z"),
    ("2026-04-14T10:00:30.500Z", daily(10, 0), "2026-04-15T10:00Z", "2026-04-15T08:00Z", "2026-04-14T14:00Z"),
]


@pytest.mark.parametrize("column", range(3), ids=[zone.key for zone in ZONES])
@pytest.mark.parametrize("vector", VECTORS, ids=[f"{v[0]} {list(v[1].values())}" for v in VECTORS])
def test_the_vectors_of_the_reference(vector, column):
    after, cadence, *expected = vector
    assert next_run(cadence, at(after), ZONES[column]) == at(expected[column])


def test_the_day_after_a_skipped_slot_is_back_at_its_hour():
    # The reference adds the day to the shifted wall time and comes an hour late.
    assert next_run(daily(2, 30), at("2026-03-29T02:00Z"), BERLIN) == at("2026-03-30T00:30Z")


def test_an_interval_counts_minutes():
    every_hour = {"kind": "interval", "everyMinutes": 60}
    assert next_run(every_hour, at(TUESDAY), BERLIN) == at("2026-04-14T11:00Z")


def test_an_interval_counts_from_the_time_it_was_due_and_names_missed_times_once():
    every_hour = {"kind": "interval", "everyMinutes": 60}
    slot = at("2026-04-14T05:15Z")
    assert next_run(every_hour, at(TUESDAY), BERLIN, slot=slot) == at("2026-04-14T10:15Z")
    assert next_run(every_hour, slot, BERLIN, slot=slot) == at("2026-04-14T06:15Z")


def test_a_manual_mission_has_no_next_run():
    assert next_run({"kind": "manual"}, at(TUESDAY), BERLIN) is None


def test_a_cron_expression_is_read_in_the_owners_zone():
    assert next_run({"kind": "cron", "expression": "0 9 * * *"}, at(TUESDAY), BERLIN) == at("2026-04-15T07:00Z")


def test_a_cron_slot_that_exists_twice_fires_once():
    cron = {"kind": "cron", "expression": "30 2 * * *"}
    first = next_run(cron, at("2026-10-24T20:00Z"), BERLIN)
    assert first == at("2026-10-25T00:30Z")
    assert next_run(cron, first, BERLIN) == at("2026-10-26T01:30Z")


def test_month_ends_are_those_of_the_calendar():
    cron = {"kind": "cron", "expression": "0 12 31 * *"}
    assert next_run(cron, at("2026-03-31T11:00Z"), BERLIN) == at("2026-05-31T10:00Z")
    leap = {"kind": "cron", "expression": "0 12 29 2 *"}
    assert next_run(leap, at(TUESDAY), BERLIN) == at("2028-02-29T11:00Z")


@pytest.mark.parametrize(
    "cadence",
    [
        None,
        "daily",
        {},
        {"kind": "yearly"},
        {"kind": "interval"},
        {"kind": "interval", "everyMinutes": 0},
        {"kind": "interval", "everyMinutes": -5},
        {"kind": "interval", "everyMinutes": float("nan")},
        {"kind": "interval", "everyMinutes": float("inf")},
        {"kind": "interval", "everyMinutes": True},
        {"kind": "interval", "everyMinutes": "60"},
        daily(24, 0),
        daily(-1, 0),
        daily(6, 60),
        {"kind": "daily", "atHour": float("inf")},
        {"kind": "daily", "atHour": 6.5},
        weekly(7, 9),
        {"kind": "weekly", "atHour": 9},
        {"kind": "cron"},
        {"kind": "cron", "expression": ""},
        {"kind": "cron", "expression": "61 * * * *"},
        {"kind": "cron", "expression": "0 0 30 2 *"},
        {"kind": "cron", "expression": "* * * * * *"},
    ],
)
def test_a_cadence_that_names_no_time_is_refused(cadence):
    with pytest.raises(InvalidCadence):
        next_run(cadence, at(TUESDAY), BERLIN)


@given(
    after=st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)),  # noqa: DTZ001
    cadence=st.one_of(
        st.builds(daily, st.integers(0, 23), st.integers(0, 59)),
        st.builds(weekly, st.integers(0, 6), st.integers(0, 23)),
        st.builds(lambda m: {"kind": "interval", "everyMinutes": m}, st.floats(1e-9, 5e6)),
    ),
    behind=st.timedeltas(timedelta(0), timedelta(days=4000)),
    zone=st.sampled_from(ZONES),
)
def test_the_next_run_lies_in_the_future_whatever_was_missed(after, cadence, behind, zone):
    after = after.replace(tzinfo=UTC)
    following = next_run(cadence, after, zone, slot=after - behind)
    assert following > after
    assert following.tzinfo is UTC


@given(after=st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)), hour=st.integers(0, 23))  # noqa: DTZ001
def test_a_daily_mission_runs_once_on_every_day_of_the_calendar(after, hour):
    moment = after.replace(tzinfo=UTC)
    days = []
    for _ in range(10):
        moment = next_run(daily(hour, 30), moment, BERLIN)
        days.append(moment.astimezone(BERLIN).date())
    assert days == [days[0] + timedelta(days=n) for n in range(10)]
