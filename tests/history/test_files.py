"""Files are written in one step: what a reader, a second writer, a killed process and a crash leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from scanproof import files

SLOW = """
    import sys, time
    from pathlib import Path
    from scanproof import files
    with files.replace_atomically(Path(sys.argv[1])) as temporary:
        temporary.write_text("half")
        print("now", flush=True)
        time.sleep(600)
"""


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("old")

    def fail_half_way() -> None:
        with files.replace_atomically(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_is_killed_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("old")
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SLOW), str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGKILL)
    assert path.read_text() == "old"
    files.write_atomically(path, b"new")
    assert path.read_text() == "new"


def test_two_writers_of_one_process_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    with files.replace_atomically(path) as first:
        first.write_text("first")
        files.write_atomically(path, b"second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with files.replace_atomically(path) as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "file").write_text("content")
        assert not path.exists()
    assert (path / "inner" / "file").read_text() == "content"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: set[int] = set()
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        assert not list(tmp_path.glob("[!.]*")), "it was flushed after it got its name"
        flushed.add(os.fstat(descriptor).st_ino)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for write in (files.write_atomically, files.add_atomically):
        write(tmp_path / "file", b"content")
        assert (tmp_path / "file").stat().st_ino in flushed
        (tmp_path / "file").unlink()
    with files.replace_atomically(tmp_path / "folder") as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "file").write_bytes(b"content")
    assert (tmp_path / "folder" / "inner" / "file").stat().st_ino in flushed


@pytest.mark.parametrize("has_links", [True, False])
def test_what_is_added_never_replaces_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("this file system has no hard links")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "below" / "file"
    files.add_atomically(path, b"first")
    with pytest.raises(FileExistsError):
        files.add_atomically(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]


def test_equal_content_is_equal_json_whatever_the_order() -> None:
    # Digests in stored histories are made of these bytes.
    wanted = b'{\n "a": "\\u00e9",\n "b": [\n  1,\n  null\n ]\n}\n'
    assert files.to_sorted_json({"b": [1, None], "a": "\u00e9"}) == wanted
    assert files.to_sorted_json({"a": "\u00e9", "b": [1, None]}) == wanted
    with pytest.raises(ValueError, match="JSON"):
        files.to_sorted_json({"a": float("nan")})
