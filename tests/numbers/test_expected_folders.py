"""A document that is lost as a whole is missed: what leads to nothing, holds nothing, or is listed and not there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scanproof.numbers.expected.folders import copy_shared
from scanproof.numbers.expected.reader import load
from tests.support.expected_folder import DOCUMENT, EVALUATION, EXPECTED, complaints, folder

__all__ = ["folder"]

DOCUMENTS = sorted(path.parent.name for path in EXPECTED.glob("*/document.yaml"))
GONE = "restore the document, or remove the folder"


def add_list(folder: Path, written: str) -> int:
    """Write `documents:` at the end of tolerance.yaml; returns its line."""
    path = folder / "tolerance.yaml"
    text = path.read_text()
    path.write_text(f"{text}documents: {written}\n")
    return text.count("\n") + 1


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project's own expected values."""
    return Path(shutil.copytree(EXPECTED, tmp_path / "expected"))


class TestEntries:
    @pytest.mark.parametrize(
        ("target", "said"), [("gone", "No such file or directory"), ("{name}", "Too many levels of symbolic links")]
    )
    @pytest.mark.parametrize("name", ["901-link", "latency", "notes.md"])
    def test_a_link_to_nothing(self, folder: Path, name: str, target: str, said: str) -> None:
        (folder / name).symlink_to(target.format(name=name))
        remedy = "restore what the link leads to, or remove the link"
        assert complaints(folder) == [f"{name}:1: cannot be read: {said}; {remedy}"]

    @pytest.mark.parametrize("inside", ["", ".hidden", "document.yaml.orig"])
    def test_a_folder_that_was_a_document(self, folder: Path, inside: str) -> None:
        (folder / "901-new").mkdir()
        if inside:
            (folder / "901-new" / inside).write_text("x")
        assert complaints(folder) == [f"901-new:1: has no document.yaml; {GONE}"]

    @pytest.mark.parametrize("inside", ["README.md", "deep/notes.txt"])
    def test_a_folder_that_never_was_one(self, folder: Path, inside: str) -> None:
        (folder / "notes" / inside).parent.mkdir(parents=True)
        (folder / "notes" / inside).write_text("x")
        assert len(load(folder).values) == 3

    def test_a_link_to_a_folder_without_a_document(
        self, folder: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        (folder / "901-new").symlink_to(tmp_path_factory.mktemp("empty"))
        assert complaints(folder) == [f"901-new:1: has no document.yaml; {GONE}"]

    def test_what_is_no_document_by_its_name(self, folder: Path) -> None:
        for name in ("latency", "schema", "__pycache__", ".git", ".cache"):
            (folder / name).mkdir()
            (folder / name / "file.json").write_text("{}")
        (folder / ".link").symlink_to("gone")
        (folder / "README.md").write_text("x")
        assert len(load(folder).values) == 3

    def test_a_link_to_a_document_is_one(self, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        elsewhere = tmp_path_factory.mktemp("elsewhere") / "900"
        (folder / "900-new").rename(elsewhere)
        (folder / "900-new").symlink_to(elsewhere)
        assert len(load(folder).values) == 3


class TestList:
    @pytest.mark.parametrize("written", ["[900-new]", "\n- 900-new", "['900-new', '900-new']"])
    def test_all_are_there(self, folder: Path, written: str) -> None:
        add_list(folder, written)
        assert len(load(folder).values) == 3

    def test_one_is_not_there(self, folder: Path) -> None:
        line = add_list(folder, "\n- 899-old\n- 900-new")
        assert complaints(folder) == [
            f"tolerance.yaml:{line + 1}: documents.0: 899-old is listed and is not there; "
            "restore its folder, or remove this line where that was meant"
        ]

    def test_a_file_is_no_document(self, folder: Path) -> None:
        (folder / "899-old").write_text("../elsewhere/899-old")
        add_list(folder, "[899-old, 900-new]")
        (line,) = complaints(folder)
        assert "documents.0: 899-old is listed and is not there" in line

    def test_one_is_not_listed(self, folder: Path) -> None:
        (folder / "901-new").mkdir()
        (folder / "901-new" / "document.yaml").write_text(DOCUMENT.replace("900", "901"))
        (folder / "901-new" / "model.yaml").write_text(EVALUATION.replace("900", "901").replace("model-1b", "model-2b"))
        assert len(load(folder).values) == 6
        line = add_list(folder, "[900-new]")
        said = "901-new is there and is not listed; add it, or remove its folder"
        assert complaints(folder) == [f"tolerance.yaml:{line}: documents: {said}"]

    @pytest.mark.parametrize(
        ("written", "key", "said"),
        [
            ("", "documents", "is empty; write a list, [one, two]"),
            ("[]", "documents", "is empty; write at least one entry"),
            ("900-new", "documents", "is '900-new'; write a list, [one, two]"),
            ("[900]", "documents.0", 'is a bare number, which loses digits and zeros; write it in quotes, "900"'),
        ],
    )
    def test_what_is_no_list_of_names(self, folder: Path, written: str, key: str, said: str) -> None:
        line = add_list(folder, written)
        assert complaints(folder) == [f"tolerance.yaml:{line}: {key}: {said}"]

    def test_a_mistake_elsewhere_hides_nothing(self, folder: Path) -> None:
        add_list(folder, "[899-old, 900-new]")
        path = folder / "tolerance.yaml"
        path.write_text(re.sub(r"(?m)^power: .*", "power: 2.0", path.read_text()))
        first, second = complaints(folder)
        assert "power: is 2.0" in first
        assert "899-old is listed" in second


class TestOwn:
    def test_all_documents_are_listed(self) -> None:
        listed = yaml.safe_load((EXPECTED / "tolerance.yaml").read_text())["documents"]
        assert listed == DOCUMENTS
        assert len(listed) >= 6

    @pytest.mark.parametrize("name", DOCUMENTS)
    def test_each_is_missed(self, copy: Path, name: str) -> None:
        shutil.rmtree(copy / name)
        (line,) = complaints(copy)
        assert f": documents.{DOCUMENTS.index(name)}: {name} is listed and is not there" in line

    def test_the_review_s_folder_is_a_usage_error(self, copy: Path) -> None:
        """A link to nothing, and an empty folder: 310 of the numbers were gone, and the audit was content."""
        shutil.rmtree(copy / "001-mamba-reproduction")
        (copy / "001-mamba-reproduction").symlink_to("gone")
        shutil.rmtree(copy / "003-mamba-7b")
        (copy / "003-mamba-7b").mkdir()
        command = [sys.executable, "-m", "scanproof", "audit", "--expected", str(copy)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "001-mamba-reproduction:1: cannot be read: No such file or directory" in done.stderr
        assert f"003-mamba-7b:1: has no document.yaml; {GONE}" in done.stderr

    def test_a_part_needs_no_list(self, tmp_path: Path) -> None:
        copy_shared(EXPECTED, tmp_path)
        shutil.copytree(EXPECTED / "003-mamba-7b", tmp_path / "003-mamba-7b")
        assert len(load(tmp_path).documents) == 1
        whole, part = (yaml.safe_load((place / "tolerance.yaml").read_text()) for place in (EXPECTED, tmp_path))
        assert part == {key: content for key, content in whole.items() if key != "documents"}
