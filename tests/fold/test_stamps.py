from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projector.fold import following_stamp, format_instant, parse_instant
from projector.fold.stamps import NO_INSTANT, Write

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000Z", 0),
        ("1969-12-31T23:59:59.9Z", -100_000),
        ("2026-04-01T00:00:00.123456Z", 1_775_001_600_123_456),
        ("2026-04-01T00:00:00.123456999Z", 1_775_001_600_123_456),
        ("2026-04-01T02:00:00.5+02:00", 1_775_001_600_500_000),
        ("2026-03-31T18:30:00-05:30", 1_775_001_600_000_000),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
        ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
    ],
)
def test_an_iso_instant_is_read_to_the_microsecond(text, us):
    assert parse_instant(text) == us


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 2026-04-01T00:00:00Z",
        "2026-04-01T00:00:00Z\n",
        "2026-04-01",
        "2026-04-01T00:00Z",
        "2026-04-01T00:00:00",
        "2026-04-01 00:00:00Z",
        "2026-04-01t00:00:00z",
        "2026-04-01T00:00:00.Z",
        "2026-04-01T00:00:00.1234567890Z",
        "2026-04-01T00:00:00,5Z",
        "2026-02-30T00:00:00Z",
        "2023-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-04-01T24:00:00Z",
        "2026-04-01T23:60:00Z",
        "2026-04-01T23:59:60Z",
        "2026-04-01T00:00:00+2:00",
        "2026-04-01T00:00:00+0200",
        "2026-04-01T00:00:00+24:00",
        "0000-01-01T00:00:00Z",
        "+010000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "٢٠٢٦-04-01T00:00:00Z",
        "[object Object]",
        "yesterday",
    ],
)
def test_anything_else_is_no_instant(text):
    assert parse_instant(text) is None


@given(st.datetimes(timezones=st.just(UTC)))
def test_what_is_written_is_read_back_cut_to_milliseconds(moment):
    us = (moment - EPOCH) // timedelta(microseconds=1)
    text = format_instant(us)
    assert len(text) == 24
    assert parse_instant(text) == us // 1000 * 1000


@given(st.lists(st.datetimes(timezones=st.just(UTC)), min_size=2, max_size=2))
def test_written_instants_sort_as_texts(moments):
    instants = [(moment - EPOCH) // timedelta(milliseconds=1) * 1000 for moment in moments]
    assert (format_instant(instants[0]) < format_instant(instants[1])) == (instants[0] < instants[1])


def test_an_instant_without_a_four_digit_year_cannot_be_written():
    with pytest.raises(OverflowError):
        format_instant(253_402_300_800_000_000)


def test_a_stamp_beats_an_unstamped_one_then_the_later_row_then_the_larger_id():
    ranked = [
        Write(NO_INSTANT, 9, "b", 0),
        Write(-5, 1, "a", 0),
        Write(-5, 1, "b", 0),
        Write(-5, 2, "a", 0),
        Write(7, 1, "a", 0),
    ]
    for lower, higher in pairwise(ranked):
        assert higher.beats(lower)
        assert not lower.beats(higher)
        assert not lower.beats(lower)


def test_a_following_stamp_is_now_unless_the_newest_one_lies_ahead():
    assert following_stamp(5_000_900, None) == 5_000_000
    assert following_stamp(5_000_900, 4_000_000) == 5_000_000
    assert following_stamp(5_000_900, 5_000_500) == 5_001_000
    assert following_stamp(5_000_900, 9_000_000) == 9_001_000
