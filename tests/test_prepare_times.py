"""Times of a log, in every form, to seconds of the store: against the standard library."""

from __future__ import annotations

import datetime
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stjax.data.log import LogColumns
from stjax.data.prepare import prepare
from tests.logs import UTC, simple, text_of, unix, utc

INSTANTS = ["1955-03-01T01:02:03", "1970-01-01T00:00:00", "2012-04-03T18:00:09", "2019-12-31T23:59:59"]


@pytest.mark.parametrize(
    "form", ["seconds", "milliseconds", "iso", "space", "zone", "numbers", "datetime", "tz"]
)
@pytest.mark.parametrize("auto", [True, False])
def test_forms_of_time(tmp_path, form, auto):
    seconds = [unix(f"{text}+00:00") for text in INSTANTS]
    written = {
        "seconds": [str(s + 0.75) for s in seconds],
        "milliseconds": [str(s * 1000 + 1) for s in seconds],
        "iso": [f"{text}Z" for text in INSTANTS],
        "space": [text.replace("T", " ") for text in INSTANTS],
        "zone": [
            datetime.datetime.fromtimestamp(s, datetime.timezone(datetime.timedelta(hours=-3.5))).isoformat()
            for s in seconds
        ],
        "numbers": seconds,
        "datetime": [datetime.datetime.fromisoformat(text) for text in INSTANTS],
        "tz": pl.Series([datetime.datetime.fromtimestamp(s, UTC) for s in seconds]).dt.convert_time_zone(
            "Asia/Tokyo"
        ),
    }[form]
    kind = "auto"
    if not auto:
        kind = {"milliseconds": "milliseconds", "seconds": "seconds", "numbers": "seconds"}.get(form, "iso")
    store = prepare(simple(written), LogColumns(time_format=kind), tmp_path / "s")
    assert utc(store) == seconds


def test_sub_second_order_survives(tmp_path):
    store = prepare(
        simple(["2020-01-01T00:00:01.9Z", "2020-01-01T00:00:01.1Z"], scene=["late", "early"]),
        LogColumns(categorical=("scene",)),
        tmp_path / "s",
    )
    assert text_of(store, "scene", store.columns["scene"]) == ["early", "late"]
    assert store.quality["ties"] == 1


ISO_TEXT = st.builds(
    lambda day, mark, clock, fraction, zone: f"{day}{mark}{clock}{fraction}{zone}",
    st.dates(datetime.date(1950, 1, 1), datetime.date(2010, 1, 1)),
    st.sampled_from("T "),
    st.times().map(lambda t: t.strftime("%H:%M:%S")),
    st.sampled_from(["", ".5", ".123456"]),
    st.sampled_from(["", "Z", "+00:00", "-04:30", "+0530"]),
)


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(ISO_TEXT, min_size=1, max_size=11),
    common=st.sampled_from(["{}T00:00:00Z", "{} 00:00:00", "{}T00:00:00-03:00"]),
    hours=st.sampled_from([0, 9, -4]),
)
def test_iso_like_the_standard_library_whatever_form_is_common(tmp_path_factory, texts, common, hours):
    texts = texts + [common.format(f"1999-01-{n:02}") for n in range(1, 14)]
    log = simple(texts).with_row_index("row").with_columns(pl.col("row").cast(pl.String))
    out = tmp_path_factory.mktemp("iso") / "s"
    store = prepare(log, LogColumns(user="row", utc_offset=hours * 3600), out)
    local = datetime.timezone(datetime.timedelta(hours=hours))
    parsed = [datetime.datetime.fromisoformat(text) for text in texts]
    expected = [math.floor(p.replace(tzinfo=p.tzinfo or local).timestamp()) for p in parsed]
    assert dict(zip(text_of(store, "user", store.columns["user"]), utc(store), strict=True)) == {
        str(row): time for row, time in enumerate(expected)
    }


@pytest.mark.parametrize(
    "bad", ["2012-4-3T00:00:00Z", "2012-04-03T24:61:00Z", "2012-04-03T1:00:00Z", "12345x"]
)
def test_what_is_not_iso_is_counted(tmp_path, bad):
    store = prepare(simple(["2012-04-03T00:00:00Z", bad]), LogColumns(), tmp_path / "s")
    assert store.quality["dropped"]["unparsable time"] == 1


def test_local_times_and_offsets(tmp_path):
    times = ["2012-04-03 14:00:00", "2012-04-03T14:00:00Z", "2012-04-03 15:00", "2012-04-03 16:00"]
    log = simple(times, zone=["-240", "-240", "", "2000"])
    columns = LogColumns(utc_offset="zone", utc_offset_unit="minutes")
    store = prepare(log, columns, tmp_path / "s")
    expected = {unix("2012-04-03T18:00:00+00:00"): -14400, unix("2012-04-03T14:00:00+00:00"): -14400}
    expected |= {unix("2012-04-03T15:00:00+00:00"): 0, unix("2012-04-03T16:00:00+00:00"): 0}
    assert dict(zip(utc(store), store.columns["utc_offset"].tolist(), strict=True)) == expected
    assert store.quality["repaired"]["utc_offset missing or impossible (taken as 0)"] == 2
    # Unix times are UTC whatever the offset
    store = prepare(simple([7, 8]), LogColumns(utc_offset=3600), tmp_path / "t")
    assert utc(store) == [7, 8]
    assert store.columns["utc_offset"].tolist() == [3600, 3600]
    # datetimes are UTC where they have a zone, local where they have none
    noon = datetime.datetime(2012, 4, 3, 12)
    for zone, expected in ((UTC, "12:00"), (None, "11:00")):
        log = simple([noon.replace(tzinfo=zone)])
        store = prepare(log, LogColumns(utc_offset=3600), tmp_path / expected)
        assert utc(store) == [unix(f"2012-04-03T{expected}:00+00:00")]


def test_beyond_1970_and_2038(tmp_path):
    times = ["1969-12-31T23:59:59Z", "2037-12-01T00:00:00Z"]
    store = prepare(simple(times), LogColumns(), tmp_path / "s")
    assert utc(store) == [unix(t) for t in times]
    assert store.schema.epoch == unix("1969-12-29T00:00:00+00:00")
    times = ["2038-01-20T00:00:00Z", "2099-01-01T00:00:00Z"]
    assert utc(prepare(simple(times), LogColumns(), tmp_path / "t")) == [unix(t) for t in times]


def test_a_row_of_another_century_costs_only_itself(tmp_path):
    times = ["1901-01-01", "2012-01-01", "2013-01-01", "2014-01-01", "2199-01-01"]
    store = prepare(simple(times), LogColumns(), tmp_path / "s")
    assert utc(store) == [unix(f"{t}T00:00:00+00:00") for t in times[1:4]]
    assert store.quality["dropped"]["time out of range"] == 2
    store = prepare(simple(times), LogColumns(), tmp_path / "t", years=(2013, 2013))
    assert utc(store) == [unix("2013-01-01T00:00:00+00:00")]


def test_local_time_fits_int32_at_both_ends(tmp_path):
    first = unix("1970-01-05T00:00:00+00:00")
    span = 2**31 - 86_400
    log = simple([first, first + 1, first + span - 1, first + span])
    store = prepare(log, LogColumns(utc_offset=86_399), tmp_path / "s")
    assert store.schema.epoch == first
    assert utc(store) == [first, first + 1, first + span - 1]
    local = store.columns["time"] + store.columns["utc_offset"]
    assert local.dtype == np.int32 and (local > 0).all()
    # So no two events of a log are further apart than int32 holds: gaps never wrap.
    assert np.subtract.outer(store.columns["time"], store.columns["time"]).max() == span - 1
