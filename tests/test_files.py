"""Files are written in one step: what a reader, a second writer, a killed process and a crash leave."""

from __future__ import annotations

import gzip
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


class TestReading:
    def test_a_link_to_a_file_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"content")
        (tmp_path / "link").symlink_to("file")
        assert files.read_bytes(tmp_path / "link") == b"content"

    def test_what_could_wait_for_ever_is_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "link").symlink_to("/dev/zero")
        for name in ("pipe", "link"):
            with pytest.raises(OSError, match="is a pipe, a socket or a device") as caught:
                files.read_bytes(tmp_path / name)
            assert caught.value.filename == str(tmp_path / name)
        with pytest.raises(IsADirectoryError):
            files.read_bytes(tmp_path)
        with pytest.raises(FileNotFoundError):
            files.read_bytes(tmp_path / "nothing")

    def test_a_pipe_put_there_after_the_question_is_refused_without_waiting(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"a regular file")
        before = path.stat()
        path.unlink()
        os.mkfifo(path)
        monkeypatch.setattr(Path, "stat", lambda _: before)
        with pytest.raises(OSError, match="is a pipe"):
            files.read_bytes(path)

    def test_a_file_without_end_is_cut_off(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"x" * 11)
        assert files.read_bytes(path, 11) == b"x" * 11
        with pytest.raises(OSError, match="is larger than 10 bytes"):
            files.read_bytes(path, 10)

    def test_a_small_gzip_that_unpacks_into_much_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "file.gz"
        whole = gzip.compress(b"0" * 10_000)
        path.write_bytes(whole)
        assert files.read_gzip(path, 10_000) == b"0" * 10_000
        with pytest.raises(ValueError, match="more than 9999 bytes"):
            files.read_gzip(path, 9_999)
        for damaged in (whole[:-3], whole[:20] + b"\xff\xff" + whole[22:], b"text", whole[:-8] + b"\0" * 8):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match="not a whole gzip file"):
                files.read_gzip(path)

    @pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"{", b"\xff\xfe\x00", b"", b"1" * 5_000])
    def test_what_is_no_json_is_a_value_error(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "file.json"
        path.write_bytes(content)
        with pytest.raises(ValueError):  # noqa: PT011
            files.read_json(path)

    @pytest.mark.parametrize(
        ("content", "named"),
        [("[]", "a list"), ('"x"', "text"), ("3", "a number"), ("null", "null"), ("true", "a boolean")],
    )
    def test_another_json_value_is_not_an_object(self, tmp_path: Path, content: str, named: str) -> None:
        path = tmp_path / "file.json"
        path.write_text(content)
        with pytest.raises(ValueError, match=f"it holds {named}, not an object"):
            files.read_json_object(path)

    def test_a_name_that_no_file_can_have_is_no_file(self, tmp_path: Path) -> None:
        for name in ("x" * 5_000, "a\0b"):
            assert not files.is_file(tmp_path / name)
            assert not files.is_folder(tmp_path / name)

    def test_whatever_is_there_is_removed(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "kept").write_text("")
        (tmp_path / "folder" / "deep").mkdir(parents=True)
        (tmp_path / "link").symlink_to(outside)
        os.mkfifo(tmp_path / "pipe")
        for name in ("folder", "link", "pipe", "nothing"):
            files.remove(tmp_path / name)
        assert [path.name for path in tmp_path.iterdir()] == ["outside"]
        assert (outside / "kept").exists()
