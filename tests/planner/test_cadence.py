from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

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


FROM = at("2026-04-14T10:00:00.000Z")


def test_reference_manual_has_no_next_run():
    assert next_run({"kind": "manual"}, FROM, BERLIN) is None


def test_reference_interval_60_is_an_hour_later():
    assert next_run({"kind": "interval", "everyMinutes": 60}, FROM, BERLIN) == at("2026-04-14T11:00:00.000Z")


def test_reference_daily_18_30_lies_within_a_day():
    assert timedelta(0) < next_run(daily(18, 30), FROM, BERLIN) - FROM < timedelta(days=1)


def test_reference_daily_06_00_lies_ahead():
    assert next_run(daily(6, 0), FROM, BERLIN) > FROM


def test_reference_weekly_5_at_9_falls_on_a_friday():
    assert next_run(weekly(5, 9), FROM, BERLIN).astimezone(BERLIN).isoweekday() == 5


def test_reference_cron_is_scheduled_here_where_the_reference_has_none():
    assert next_run({"kind": "cron", "expression": "0 9 * * *"}, FROM, BERLIN) == at("2026-04-15T07:00Z")


@pytest.mark.parametrize("column", range(3), ids=[zone.key for zone in ZONES])
@pytest.mark.parametrize("vector", VECTORS, ids=[f"{v[0]} {list(v[1].values())}" for v in VECTORS])
def test_the_vectors_of_the_reference(vector, column):
    after, cadence, *expected = vector
    assert next_run(cadence, at(after), ZONES[column]) == at(expected[column])


def test_the_day_after_a_skipped_slot_is_back_at_its_hour():
    # The reference adds the day to the shifted wall time and comes an hour late.
    assert next_run(daily(2, 30), at("2026-03-29T02:00Z"), BERLIN) == at("2026-03-30T00:30Z")


def test_an_interval_counts_from_the_time_it_was_due_and_names_missed_times_once():
    every_hour = {"kind": "interval", "everyMinutes": 60}
    slot = at("2026-04-14T05:15Z")
    assert next_run(every_hour, at(TUESDAY), BERLIN, slot=slot) == at("2026-04-14T10:15Z")
    assert next_run(every_hour, slot, BERLIN, slot=slot) == at("2026-04-14T06:15Z")


def test_an_interval_keeps_to_the_milliseconds_of_the_log():
    slot = at("2026-04-14T09:00:00.000400Z")
    first = next_run({"kind": "interval", "everyMinutes": 1.00001}, slot, BERLIN, slot=slot)
    assert first == at("2026-04-14T09:01:00.002Z")
    assert next_run({"kind": "interval", "everyMinutes": 1e-9}, first, BERLIN, slot=first) - first == timedelta(
        minutes=1
    )


def cron(expression: str) -> dict:
    return {"kind": "cron", "expression": expression}


def runs(cadence: dict, after: str, zone: ZoneInfo, count: int) -> list[str]:
    """The next `count` runs as the owner's clock shows them, with its offset."""
    moment, shown = at(after), []
    for _ in range(count):
        moment = next_run(cadence, moment, zone)
        shown.append(moment.astimezone(zone).strftime("%d %H:%M%z"))
    return shown


SPRING = "2026-03-28T23:30Z"
AUTUMN = "2026-10-24T22:30Z"


@pytest.mark.parametrize(
    ("cadence", "after", "expected"),
    [
        (daily(2, 30), SPRING, ["29 03:30+0200", "30 02:30+0200"]),
        (cron("30 2 * * *"), SPRING, ["29 03:30+0200", "30 02:30+0200"]),
        (cron("*/20 2 * * *"), SPRING, ["29 03:00+0200", "29 03:20+0200", "29 03:40+0200", "30 02:00+0200"]),
        (cron("0,30 2,3 * * *"), SPRING, ["29 03:00+0200", "29 03:30+0200", "30 02:00+0200"]),
        (cron("0 */2 * * *"), SPRING, ["29 03:00+0200", "29 04:00+0200", "29 06:00+0200"]),
        (cron("30 * * * *"), SPRING, ["29 01:30+0100", "29 03:30+0200", "29 04:30+0200"]),
        (daily(2, 30), AUTUMN, ["25 02:30+0200", "26 02:30+0100"]),
        (cron("30 2 * * *"), AUTUMN, ["25 02:30+0200", "26 02:30+0100"]),
        (cron("*/30 2 * * *"), AUTUMN, ["25 02:00+0200", "25 02:30+0200", "26 02:00+0100"]),
        (cron("0 */2 * * *"), AUTUMN, ["25 02:00+0200", "25 04:00+0100"]),
        (cron("30 0-23 * * *"), AUTUMN, ["25 01:30+0200", "25 02:30+0200", "25 02:30+0100", "25 03:30+0100"]),
    ],
)
def test_both_nights_on_which_the_clock_changes(cadence, after, expected):
    assert runs(cadence, after, BERLIN, len(expected)) == expected


def test_an_hourly_expression_loses_nothing_where_half_an_hour_comes_twice():
    lord_howe = ZoneInfo("Australia/Lord_Howe")
    expected = ["05 01:40+1100", "05 01:40+1030", "05 02:40+1030"]
    assert runs(cron("40 * * * *"), "2026-04-04T14:00Z", lord_howe, 3) == expected


def test_a_time_skipped_before_midnight_comes_after_it_and_is_not_forgotten_then():
    # The 28th ends at 23:00 there, and what is meant for 23:30 comes at 00:30 on the 29th.
    place = ZoneInfo("America/Scoresbysund")
    for after in ("2026-03-28T20:00Z", "2026-03-29T01:10Z"):
        for cadence in (daily(23, 30), cron("30 23 * * *")):
            assert runs(cadence, after, place, 2) == ["29 00:30-0100", "29 23:30-0100"]


def test_a_day_that_a_zone_left_out_does_not_run_twice():
    # Samoa went from the evening of the 29th to the morning of the 31st.
    expected = ["29 09:00-1000", "31 09:00+1400"]
    for cadence in (daily(9, 0), cron("0 9 * * *")):
        assert runs(cadence, "2011-12-29T10:00Z", ZoneInfo("Pacific/Apia"), 2) == expected


def test_month_ends_are_those_of_the_calendar():
    assert runs(cron("0 12 31 * *"), "2026-01-31T12:00Z", BERLIN, 3) == ["31 12:00+0200"] * 3
    assert next_run(cron("0 12 31 * *"), at("2026-03-31T11:00Z"), BERLIN) == at("2026-05-31T10:00Z")
    assert next_run(cron("0 12 29 2 *"), at(TUESDAY), BERLIN) == at("2028-02-29T11:00Z")
    assert runs(cron("0 0 L * *"), "2028-01-31T12:00Z", BERLIN, 2) == ["29 00:00+0100", "31 00:00+0200"]


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
        {"kind": "cron", "expression": "0 0 31 2,4,6 *"},
        {"kind": "cron", "expression": "* * * * * *"},
        {"kind": "cron", "expression": f"{'9' * 5000} * * * *"},
        {"kind": "cron", "expression": "\u00b2 * * * *"},
        {"kind": "cron", "expression": "*/0 * * * *"},
        {"kind": "cron", "expression": 5},
        {"kind": "interval", "everyMinutes": 10**400},
        {"kind": "daily", "atHour": float("nan")},
        {"kind": "daily", "atHour": "6"},
        {"kind": ["daily"]},
    ],
)
def test_a_cadence_that_names_no_time_is_refused(cadence):
    with pytest.raises(InvalidCadence):
        next_run(cadence, at(TUESDAY), BERLIN)


@pytest.mark.parametrize(
    "cadence",
    [{"kind": "secret"}, {"kind": "cron", "expression": "secret * * * *"}, {"kind": "daily", "atHour": "secret"}],
)
def test_a_refusal_says_nothing_of_what_was_stored(cadence):
    with pytest.raises(InvalidCadence) as caught:
        next_run(cadence, at(TUESDAY), BERLIN)
    assert "secret" not in str(caught.value).lower()
