"""Files that are odd as files or as YAML: read, or refused with a file and a line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scanproof.numbers.expected.reader import load
from tests.support.expected_folder import DOCUMENT, EVALUATION, Edit, complaints, edit, folder

__all__ = ["edit", "folder"]


def store(folder: Path, content: bytes) -> Path:
    """Write the evaluation file byte by byte; returns the folder."""
    (folder / "900-new" / "model.yaml").write_bytes(content)
    return folder


class TestBytes:
    @pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
    @pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
    def test_bom_and_line_ends(self, folder: Path, start: bytes, end: bytes) -> None:
        path = folder / "900-new" / "document.yaml"
        path.write_bytes(start + DOCUMENT.encode().replace(b"\n", end))
        sound = load(folder).values
        content = start + EVALUATION.encode().replace(b"\n", end)
        assert load(store(folder, content)).values == sound
        store(folder, content.replace(b'"0.45"', b'"45.0"'))
        assert complaints(folder)[0].startswith("900-new/model.yaml:15: values.1.printed: is 45.0, outside 0 to 1")

    @pytest.mark.parametrize(
        ("old", "new", "line"),
        [
            ("  dtype: not printed", "\tdtype: not printed", 12),
            ("  revision: main", "  \trevision: main", 6),
            ("metric: acc, line: 3", "metric:\tacc, line: 3", None),
        ],
    )
    def test_tabs(self, edit: Edit, old: str, new: str, line: int | None) -> None:
        path = edit(old, new)
        if line is None:
            assert len(load(path).values) == 3
        else:
            (found,) = complaints(path)
            assert found.startswith(f"900-new/model.yaml:{line}: is not YAML: ")

    @pytest.mark.parametrize(
        "content",
        [
            b"\xff\xfeh\x00",
            b"a: \x00",
            b"a: \xed\xa0\x80",
            b"a: '\\",
            b'a: "\\ud800"',
            b"? [a]\n: b",
            b"%YAML 9.9\n---\n",
            b"---\na: b\n---\nc: d\n",
            b"[" * 900 + b"]" * 900,
            b"[" * 100_000,
            b"- " * 5_000,
            b"{" * 3_000 + b"}" * 3_000,
        ],
        ids=lambda content: repr(content[:12]),
    )
    def test_nothing_is_a_traceback(self, folder: Path, content: bytes) -> None:
        lines = complaints(store(folder, content))
        assert all(line.startswith("900-new/model.yaml:") for line in lines)


class TestNumbers:
    @pytest.mark.parametrize("quote", ['"', ""])
    @pytest.mark.parametrize(
        "printed",
        ["\uff14\uff18.0", "48\uff0e0", "\u0664\u0668", "1e-3", "48.", "-1", "+1", ".5", "1e999", "1_0", "0x1f", "nan"],
    )
    def test_only_digits_are_printed(self, edit: Edit, printed: str, quote: str) -> None:
        (line,) = complaints(edit('"50.0"', f"{quote}{printed}{quote}"))
        place, said = line.split(": ", 1)
        assert place == "900-new/model.yaml:14"
        assert any(text in said for text in ("write the digits alone", "is a bare number", "is too large"))

    @pytest.mark.parametrize("printed", ["9" * 400, "0." + "1" * 400, "1" + "0" * 20])
    @pytest.mark.parametrize("value", ['printed: "50.0"', 'stderr: "0.01"', 'printed: "8.14"'])
    def test_more_digits_than_a_number_has(self, edit: Edit, value: str, printed: str) -> None:
        (line,) = complaints(edit(value, f'{value.split(":")[0]}: "{printed}"'))
        assert f"{len(printed)} characters; write the digits as printed, 20 at most" in line
        assert len(line) < 220

    @pytest.mark.parametrize("number", ["9" * 400, "9" * 5000, "1e999", "-1e999", "9" * 400 + ".0"])
    @pytest.mark.parametrize(
        "place", ["line: 3, widened: {{reason: x, by: {}}}", "line: {}", "line: 3, num_fewshot: {}"]
    )
    def test_numbers_too_large_to_read(self, edit: Edit, place: str, number: str) -> None:
        (line,) = complaints(edit("line: 3", place.format(number)))
        assert line.startswith("900-new/model.yaml:14: ")
        assert line.endswith("is too large for a number; if it is a name, write it in quotes")

    def test_a_commit_without_quotes(self, edit: Edit) -> None:
        (line,) = complaints(edit("revision: main", f"revision: {'12345678' * 5}"))
        assert line.startswith("900-new/model.yaml:6: 1234")
        load(edit("revision: main", f"revision: '{'12345678' * 5}'"))


class TestPlaces:
    def test_a_file_that_must_not_be_read(self, folder: Path) -> None:
        path = folder / "900-new" / "model.yaml"
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read every file")
        assert complaints(folder) == ["900-new/model.yaml:1: cannot be read: Permission denied"]

    def test_a_folder_that_must_not_be_read(self, folder: Path) -> None:
        path = folder / "900-new"
        path.chmod(0)
        try:
            if os.access(path, os.R_OK):
                pytest.skip("this user may read every folder")
            assert "900-new:1: cannot be read: Permission denied" in complaints(folder)
        finally:
            path.chmod(0o700)

    @pytest.mark.parametrize("target", ["model.yaml", "gone.yaml", "other"])
    def test_a_link_to_nothing(self, folder: Path, target: str) -> None:
        (folder / "900-new" / "other").symlink_to("other")
        path = folder / "900-new" / "model.yaml"
        path.unlink()
        path.symlink_to(target)
        (line,) = complaints(folder)
        assert line.startswith("900-new/model.yaml:1: cannot be read: ")

    def test_a_link_to_the_folder_around_it(self, folder: Path) -> None:
        (folder / "900-new" / "loop").symlink_to(folder)
        assert len(load(folder).values) == 3
        (folder / "loop").symlink_to(folder)
        assert any(line.startswith("loop/document.yaml:1: cannot be read: ") for line in complaints(folder))

    @pytest.mark.parametrize("name", ["model.yaml", "document.yaml"])
    def test_a_folder_in_place_of_a_file(self, folder: Path, name: str) -> None:
        (folder / "900-new" / name).unlink()
        (folder / "900-new" / name).mkdir()
        assert complaints(folder) == [f"900-new/{name}:1: cannot be read: Is a directory"]

    def test_a_folder_with_the_name_of_a_file(self, folder: Path) -> None:
        (folder / "more.yaml").mkdir()
        (line,) = complaints(folder)
        assert line.startswith("more.yaml:1: is not read here")

    @pytest.mark.parametrize("name", ["tasks.yaml", "tolerance.yaml"])
    def test_a_folder_in_place_of_a_file_at_the_top(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()
        (line,) = complaints(folder)
        assert line.startswith(f"{name}:1: cannot be read")
