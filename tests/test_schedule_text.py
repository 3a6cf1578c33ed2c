"""Schedules as text."""

import pytest

from fd2talk_core.errors import UserError
from fd2talk_core.motion.schedule_text import EXAMPLE, parse_schedule


@pytest.mark.parametrize("text", [EXAMPLE, "0:1,2.5:0.3,4:1", "0: 1; 2.5: .3;\n4: 1\n"])
def test_pairs_are_read(text):
    assert parse_schedule(text) == [(0.0, 1.0), (2.5, 0.3), (4.0, 1.0)]


@pytest.mark.parametrize("text", ["", "  \n", ","])
def test_blank_means_none(text):
    assert parse_schedule(text) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0: 1, 2", "Entry 2 of the weight schedule, '2', is not a pair"),
        ("0: 1: 2", "Entry 1 of the weight schedule, '0: 1: 2'"),
        ("0: much", "'0: much', is not a pair of seconds and value. Write, say, 0: 1"),
        ("-1: 1", "is at -1 seconds. Use a time of 0 or later"),
        ("nan: 1", "is at nan seconds"),
    ],
)
def test_anything_else_is_explained(text, message):
    with pytest.raises(UserError, match=message):
        parse_schedule(text, "weight schedule")
