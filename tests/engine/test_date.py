"""date: the field's line, beside the standard library's."""

from __future__ import annotations

import random
from email.utils import formatdate

import pytest
from uws_shims import date_shim as shim

DAY = 86400
END = 253402300799


def line(unix_s: int) -> str:
    text, behind = shim.line(unix_s)
    assert (len(text), behind) == (shim.LINE_BYTES, 0xA5)
    return str(text, "ascii")


def expected(unix_s: int) -> str:
    return f"Date: {formatdate(unix_s, usegmt=True)}\r\n"


def test_moment_of_the_rfc_is_written_as_there() -> None:
    assert line(784111777) == "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"


def test_every_day_of_800_years_is_the_standard_library_s() -> None:
    for day in range(800 * 366):
        assert line(day * DAY) == expected(day * DAY)


@pytest.mark.parametrize("of_day", [0, 59, 60, 3599, 3600, 43200, DAY - 1])
@pytest.mark.parametrize("day", [0, 58, 59, 365, 11016, 11017, 47540, 47541])
def test_seconds_around_the_days_ends(day: int, of_day: int) -> None:
    assert line(day * DAY + of_day) == expected(day * DAY + of_day)


def test_moments_up_to_the_last_one_are_the_standard_library_s() -> None:
    rng = random.Random(6)
    for moment in [END - 1, END, *(rng.randrange(END) for _ in range(10_000))]:
        assert line(moment) == expected(moment)


@pytest.mark.parametrize("moment", [END + 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_what_is_later_is_the_last_one(moment: int) -> None:
    assert line(moment) == "Date: Fri, 31 Dec 9999 23:59:59 GMT\r\n"
