"""A history has to outlive the process that writes it; where fsspec says that a place does not, it is none."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from scanproof.history.persistence import explain_unkept


class Held(MemoryFileSystem):  # type: ignore[misc]
    """A place of somebody's own, in memory."""

    protocol = "held"


class Own(LocalFileSystem):  # type: ignore[misc]
    """A place of somebody's own, on the disk."""

    protocol = "own"


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Not by `fsspec.registry`: that is the mapping of this module.
    kinds: Any = importlib.import_module("fsspec.registry")
    monkeypatch.setitem(kinds._registry, "held", Held)
    monkeypatch.setitem(kinds._registry, "own", Own)
    yield
    fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize(
    ("name", "because"),
    [
        ("memory://bucket/history", "it is in the memory of this process and ends with it"),
        ("simplecache::memory://bucket", "it is in the memory of this process and ends with it"),
        ("dir::memory://bucket", "it is in the memory of this process and ends with it"),
        ("zip://inner::memory://bucket.zip", "it is in the memory of this process and ends with it"),
        ("held://bucket", "it is in the memory of this process and ends with it"),
        ("reference://bucket", "what is written there stays in the memory of this process"),
        ("data://,x", "it holds what its name says, and nothing can be written there"),
        ("own:///tmp", "its kind of place was registered in this process alone, and no other would find it"),
    ],
)
def test_a_place_that_ends_with_the_process_keeps_no_history(name: str, because: str) -> None:
    assert explain_unkept(name) == f"{name} keeps no history: {because}; name a folder or a bucket that stays"


def test_what_fsspecs_own_settings_put_behind_a_place_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(importlib.import_module("fsspec.config").conf, "simplecache", {"target_protocol": "memory"})
    said = explain_unkept("simplecache://bucket/history")
    assert said is not None
    assert "it is in the memory of this process" in said


def test_folders_and_buckets_keep_one(tmp_path: Path) -> None:
    for name in (str(tmp_path), f"file://{tmp_path}", f"local://{tmp_path}", f"simplecache::file://{tmp_path}"):
        assert explain_unkept(name) is None
    # Its package may be missing here: whoever opens it says so.
    for name in ("s3://bucket/history", "gs://bucket", "abfs://container@account/x", "nobody://knows"):
        assert explain_unkept(name) is None
    assert (explain_unkept(str(tmp_path / "none")) or "").startswith("there is no folder ")
