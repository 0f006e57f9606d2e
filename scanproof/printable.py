"""Make text of others safe to print: nothing in it moves a cursor, changes colours, or hides."""

from __future__ import annotations

import unicodedata

_CONTROLS = ("Cc", "Zl", "Zp")
_TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
_MARKS = "\u200e\u200f\u061c"
"""Of Unicode: categories, classes of direction, and marks that the classes do not name."""
LONGEST = 600
"""Characters of one message; a name of 100,000 characters would hide the rest of it."""


def make_printable(text: str, longest: int | None = None, *, lines: bool = False) -> str:
    r"""`text` with every character that cannot be seen written as JSON writes it: ESC as `\u001b`.

    Such are control characters, those that turn the direction of writing, unpaired surrogates, and every white space
    but the blank.  What has been made printable stays as it is.

    Args:
        longest: most characters, of each line where `lines` is given; of longer text the middle is left out, and said.
        lines: keep line breaks and tabs.
    """
    if lines and longest is not None and len(text) > longest:
        return "\n".join(make_printable(line, longest, lines=False) for line in text.split("\n"))
    if longest is not None and len(text) > longest:
        kept = max(1, longest // 2)
        text = f"{text[:kept]}...({len(text) - 2 * kept} characters)...{text[-kept:]}"
    if text.isprintable():
        return text
    kept_as_is = "\n\t" if lines else ""
    return "".join(char if char.isprintable() or char in kept_as_is else _escape(char) for char in text)


def is_visible(text: str) -> bool:
    """Whether `text` holds nothing but characters that can be seen, blanks, line breaks and tabs."""
    return text.isprintable() or make_printable(text, lines=True) == text


def leads_astray(text: str) -> bool:
    """Whether `text` holds a character that ends a line, moves a cursor or turns the direction of writing.

    Other characters that cannot be seen, such as a no-break space, may be in the name of a file.
    """
    return any(
        unicodedata.category(char) in _CONTROLS or unicodedata.bidirectional(char) in _TURNING or char in _MARKS
        for char in text
        if char not in "\n\t"
    )


def _escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
