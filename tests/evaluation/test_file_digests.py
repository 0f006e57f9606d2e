"""Digests of files are remembered, and never those of another content."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from scanproof.evaluation import file_digests
from scanproof.evaluation.file_digests import FileDigests

OLD = 1_000_000_000


def old_enough(path: Path) -> None:
    """Wait until the file is old enough for its digest to be remembered."""
    while time.time() - path.stat().st_ctime <= 2.1:
        time.sleep(0.1)


def test_unchanged_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"1")
    old_enough(path)
    for _ in range(2):
        with FileDigests(tmp_path / "db") as digests:
            digest = digests.digest(path)
    assert digests.files_read == 0
    with FileDigests(tmp_path / "other-db") as digests:
        assert digests.digest(path) == digest


@pytest.mark.parametrize(("age", "read_again"), [(0.0, 1), (1.9, 1), (2.1, 0)])
def test_file_that_just_changed_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, read_again: int
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"1")
    now = path.stat().st_ctime + age
    monkeypatch.setattr(file_digests, "time", SimpleNamespace(time=lambda: now))
    for _ in range(2):
        with FileDigests(tmp_path / "db") as digests:
            digests.digest(path)
    assert digests.files_read == read_again


def test_remembered_file_is_read_again_when_only_its_change_time_tells(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"1")
    os.utime(path, (OLD, OLD))
    old_enough(path)
    seen = []
    for content in (b"1", b"2"):
        if path.read_bytes() != content:
            path.write_bytes(content)
            os.utime(path, (OLD, OLD))
        with FileDigests(tmp_path / "db") as digests:
            seen.append(digests.digest(path))
    assert seen == [hashlib.sha256(content).hexdigest() for content in (b"1", b"2")]


def test_database_that_is_none_is_started_anew(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"not a database at all" * 100)
    path = tmp_path / "weights"
    path.write_bytes(b"1")
    with FileDigests(tmp_path / "db") as digests:
        assert digests.digest(path).startswith("6b86b273")


@pytest.mark.parametrize(
    "damage", ["after page 1", "other columns", "other table", "a view", "folder", "pipe", "digest"]
)
def test_a_database_that_is_not_as_it_is_written_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    later = time.time() + 10
    monkeypatch.setattr(file_digests, "time", SimpleNamespace(time=lambda: later))
    database, paths = tmp_path / "cache" / "db", [tmp_path / f"weights{number}" for number in range(100)]
    for path in paths:
        path.write_bytes(b"1")
    with FileDigests(database) as digests:
        sound = [digests.digest(path) for path in paths]
    if damage == "after page 1":
        content = database.read_bytes()
        assert len(content) > 8192
        database.write_bytes(content[:4096] + b"\x55" * (len(content) - 4096))
    elif damage == "digest":
        with sqlite3.connect(database) as changed:
            changed.execute("update files set digest = x'00'")
    else:
        database.unlink()
        if damage == "folder":
            (database / "below").mkdir(parents=True)
        elif damage == "pipe":
            os.mkfifo(database)
        else:
            definition = {
                "other columns": "create table files (name text, stamp integer)",
                "other table": "create table files (path text, stamp text, digest text, more text not null)",
                "a view": "create view files as select 1 as path, 2 as stamp, 3 as digest",
            }[damage]
            with sqlite3.connect(database) as other:
                other.execute(definition)
    for read in (100, 0):
        with FileDigests(database) as digests:
            assert [digests.digest(path) for path in paths] == sound
        assert digests.files_read == read


def test_where_no_database_can_be_made_digests_last_for_the_session(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"1")
    with FileDigests(tmp_path / ("x" * 300)) as digests:
        assert digests.digest(path).startswith("6b86b273")


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with FileDigests(tmp_path / "db") as digests, pytest.raises(OSError, match="is not a regular file"):
        digests.tree(tmp_path)


def test_a_file_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"weights\xff")
    path.write_bytes(b"1")
    old_enough(path)
    for _ in range(2):
        with FileDigests(tmp_path / "db") as digests:
            assert digests.digest(path).startswith("6b86b273")
    assert digests.files_read == 0


def test_version_control_and_caches_are_no_content(tmp_path: Path) -> None:
    for name in (".git/x", ".cache/huggingface/y", "a/__pycache__/z.pyc", "a/b.txt"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).touch()
    with FileDigests(tmp_path / "db") as digests:
        assert list(digests.tree(tmp_path / "tree")) == ["a/b.txt"]
