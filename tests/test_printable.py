"""Text of others is made visible before it is printed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanproof.printable import is_visible, make_printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, \u00e4\u00f6\u03c7\u4e2d", "plain, \u00e4\u00f6\u03c7\u4e2d"),
        ("\x1b[31mred\x07", r"\u001b[31mred\u0007"),
        ("\x9b31m", r"\u009b31m"),
        ("a\0b\x7f", r"a\u0000b\u007f"),
        ("two\nlines\r", r"two\u000alines\u000d"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u200bhidden\u2028", r"\u200bhidden\u2028"),
        ("\udcff", r"\udcff"),
        ("\U000e0041", r"\udb40\udc41"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text: str, shown: str) -> None:
    assert make_printable(text) == shown


def test_line_breaks_and_tabs_stay_where_they_are_asked_for() -> None:
    assert make_printable("a\n\tb\r\x1b", lines=True) == "a\n\tb\\u000d\\u001b"


def test_the_middle_of_a_long_text_is_left_out_and_said() -> None:
    shown = make_printable("a" * 50_000 + "b" * 50_000, 100)
    assert shown == "a" * 50 + "...(99900 characters)..." + "b" * 50


@given(st.text(st.characters(), max_size=40))
def test_everything_made_printable_is_printable_and_stays_as_it_is(text: str) -> None:
    for lines in (False, True):
        shown = make_printable(text, lines=lines)
        assert make_printable(shown, lines=lines) == shown
        assert shown.replace("\n", "").replace("\t", "").isprintable()
        shown.encode("utf-8")
    assert is_visible(make_printable(text))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_inside_json_it_is_still_the_same_text(text: str) -> None:
    assert json.loads(make_printable(json.dumps([text], ensure_ascii=False), lines=True)) == [text]
