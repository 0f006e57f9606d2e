"""Does a place keep a history?  One that is gone with the process that wrote it keeps none."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from scanproof.history.errors import HistoryError
from scanproof.history.storage import explain_missing, open_place

FLEETING = {
    "fsspec.implementations.memory.MemoryFileSystem": "it is in the memory of this process and ends with it",
    "fsspec.implementations.reference.ReferenceFileSystem": "what is written there stays in the memory of this process",
    "fsspec.implementations.data.DataFileSystem": "it holds what its name says, and nothing can be written there",
}
"""Class of a file system of fsspec -> why it keeps no history; classes made of these as well."""
UNKNOWN = "its kind of place was registered in this process alone, and no other would find it"
REMEDY = "name a folder or a bucket that stays"


def explain_unkept(name: str) -> str | None:
    """Why no history can be kept in a folder or URL, and what to do; None where one can, as far as fsspec says it."""
    missing = explain_missing(name)
    if missing is not None or "://" not in name:
        return missing
    links = list(_list_links(name))
    kinds = [*(kind for _, kind in links), *_list_systems(name)]
    because = [FLEETING[base] for kind in kinds for base in _list_fleeting(kind)]
    if not because and any(kind is not _find_installed(protocol) for protocol, kind in links):
        because = [UNKNOWN]
    return f"{name} keeps no history: {because[0]}; {REMEDY}" if because else None


def _list_fleeting(kind: type[Any]) -> list[str]:
    """The names of a class and of what it is made of that are in `FLEETING`."""
    names = [f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__]
    return [name for name in names if name in FLEETING]


def _list_systems(name: str) -> Iterator[type[Any]]:
    """Classes of the file system behind a URL and of those that it wraps, as fsspec's own settings may say."""
    try:
        system = open_place(name).system
    except HistoryError:
        return  # Whoever opens it says so.
    known: set[int] = set()
    while system is not None and id(system) not in known:
        known.add(id(system))
        yield type(system)
        # Those that wrap another one answer for it, even when they are asked for `__dict__`.
        inner = object.__getattribute__(system, "__dict__")
        system = inner.get("fs") or inner.get("sync_fs")


def _list_links(name: str) -> Iterator[tuple[str, type[Any]]]:
    """(protocol, class) of each link of a chain such as `simplecache::s3://bucket`."""
    from fsspec.registry import get_filesystem_class

    for link in name.split("::"):
        protocol = link.partition("://")[0]
        try:
            yield protocol, get_filesystem_class(protocol)
        except (ImportError, ValueError):
            continue  # A path, or what `open_place` has refused.


def _find_installed(protocol: str) -> type[Any] | None:
    """The class that fsspec, or an installed package, has for a protocol; None where neither has one."""
    known = importlib.import_module("fsspec.registry").known_implementations.get(protocol)
    if known is None:
        return None
    module, _, attribute = str(known["class"]).replace(":", ".").rpartition(".")
    installed: type[Any] = getattr(importlib.import_module(module), attribute)
    return installed
