"""Damage to files and values, from a seed: bytes, tokens and JSON that nobody writes on purpose.

Whatever reads them says what is wrong in a message that `check_message` accepts.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

from scanproof.printable import is_visible

SEED = 14
LONG = "x" * 3_000
NAMES = (
    "", ".", "..", "../..", "/etc/passwd", "/dev/zero", "~nobody-here", "-r", "--help", "a\0b", "a\nb", "\x1b[31m",
    "\x07", "\u202eabc", "\ud800", "\u00b2", "%s", "{}", "NaN", "=", "==", "#", "@", "null", "*a", "&a", "!!str", "<<",
    LONG, "http://[", "s3://", "file:///", "C:\\x", " ", "\ufeff", "\u0661", "1e999", "9" * 5_000, "a" * 300,
)  # fmt: skip
"""Texts that are odd as names, numbers, options or YAML."""
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 3, 10**18, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), [], {}, [[]], {"": {}},
    *NAMES,
)  # fmt: skip
TOKENS = (
    *(name.encode("utf-8", "surrogatepass") for name in NAMES), b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80",
    b"[" * 400, b"{" * 400, b'{"a":' * 400, b"- " * 400, b"\t", b"\r", b"\n\n", b"---\n", b"...\n", b"? ", b"|\n",
    b">\n", b'"', b"'", b"\\", b",", b":", b"}", b"]", b"\x1f\x8b\x08", b"PK\x03\x04", b"SQLite format 3\0",
)  # fmt: skip


def make_seed(text: str) -> Random:
    """Numbers that depend on this text alone."""
    return Random(f"{SEED} {text}")


def check_message(text: str, named: str) -> None:
    """A message that helps: it names the file, and is short and visible."""
    assert named in text
    lines = text.splitlines()
    assert is_visible(text), text
    assert max(map(len, lines)) < 3_000
    assert len(lines) <= 201


def odd_value(seed: Random) -> str:
    """A text that might be given for a path, a name or a number."""
    parts = seed.choices((*NAMES, "a", "1", "/", "y" * 200), k=seed.randint(1, 3))
    return "".join(parts)


def mutate_bytes(random: Random, content: bytes) -> bytes:
    """`content` with one to three places damaged."""
    for _ in range(random.randint(1, 3)):
        start = random.randrange(len(content) + 1)
        end = min(len(content), start + random.choice((1, 1, 2, 8, 40)))
        kind = random.randrange(7)
        if kind == 0:
            middle = bytes(byte ^ (1 << random.randrange(8)) for byte in content[start:end])
        elif kind == 1:
            middle = b""
        elif kind == 2:
            middle = content[start:end] * random.choice((2, 2, 50))
        elif kind == 3:
            middle = random.choice(TOKENS)
        elif kind == 4:
            middle = random.choice(TOKENS) + content[start:end]
        elif kind == 5:
            other = random.randrange(len(content) + 1)
            middle = content[other : other + 40]
        else:
            middle, end = b"", len(content) if random.random() < 0.2 else end
        content = content[:start] + middle + content[end:]
    return content


def mutate_text(random: Random, content: bytes) -> bytes:
    """As `mutate_bytes`, or with one word replaced by an odd one, so that the form around it stays."""
    if random.random() < 0.4:
        return mutate_bytes(random, content)
    separator = b" " if b" " in content else b","
    words = content.split(separator)
    words[random.randrange(len(words))] = random.choice((*TOKENS, b"1", b"2", b"3", b"8"))
    return separator.join(words)


def mutate_json(random: Random, content: Any) -> bytes:
    """JSON of `content` with one value replaced, removed, doubled or renamed; or damaged as bytes."""
    if random.random() < 0.3:
        return mutate_bytes(random, json.dumps(content).encode())
    copy = json.loads(json.dumps(content))
    places = [(copy, None), *_list_places(copy)]
    around, key = random.choice(places)
    value = random.choice(VALUES)
    if key is None:
        copy = value
    elif isinstance(around, list):
        around[key : key + random.randint(0, 1)] = [value] * random.randint(0, 2)
    elif random.random() < 0.2:
        around[random.choice(NAMES)] = around.pop(key)
    elif random.random() < 0.2:
        del around[key]
    else:
        around[key] = value
    return json.dumps(copy).encode("utf-8", "surrogatepass")


def _list_places(content: Any) -> list[tuple[Any, Any]]:
    """(list or mapping, index or key) of every value inside `content`."""
    places: list[tuple[Any, Any]] = []
    waiting = [content]
    while waiting:
        around = waiting.pop()
        keys: list[Any] = list(around) if isinstance(around, dict) else list(range(len(around)))
        places += [(around, key) for key in keys]
        waiting += [around[key] for key in keys if isinstance(around[key], dict | list)]
    return places
