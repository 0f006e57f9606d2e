"""What a worker imports is identified by content: edited in place, put in front on the path, or loaded unforeseen."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scanproof.evaluation.evaluate_job import evaluate
from scanproof.evaluation.file_digests import FileDigests
from scanproof.evaluation.imported import Imported, Imports, find_places
from scanproof.record import Evaluation
from tests.support import small_mirror as small
from tests.support.small_jobs import mirror

__all__ = ["mirror"]
OLD = 1_000_000_000


@pytest.fixture
def front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front on the path of workers, behind those that are there already."""
    folder = tmp_path / "front"
    folder.mkdir()
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([before, str(folder)] if before else [str(folder)]))
    return folder


@pytest.fixture
def packages(tmp_path: Path) -> Callable[[], dict[str, str | None]]:
    def take() -> dict[str, str | None]:
        with FileDigests(tmp_path / "hashes.sqlite") as digests:
            return Imports().packages(digests)

    return take


def changed(before: dict[str, str | None], after: dict[str, str | None]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize("name", ["torch", "transformers", "triton", "tokenizers", "datasets", "lm_eval", "mamba_ssm"])
def test_a_package_in_front_is_another_one_and_so_is_one_byte_of_it_in_place(
    packages: Callable[[], dict[str, str | None]], front: Path, name: str
) -> None:
    """Neither changes a version or a RECORD."""
    before = packages()
    package = front / name / "inner" / "code.py"
    package.parent.mkdir(parents=True)
    (front / name / "__init__.py").touch()
    package.write_text("ONE = 1\n")
    os.utime(package, (OLD, OLD))
    in_front = packages()
    assert changed(before, in_front) == {name}
    package.write_text("ONE = 2\n")
    os.utime(package, (OLD, OLD))
    assert changed(in_front, packages()) == {name}


def test_a_module_that_python_loads_at_its_start_is_seen(
    packages: Callable[[], dict[str, str | None]], front: Path
) -> None:
    before = packages()
    (front / "sitecustomize.py").write_text("import math\n")
    assert changed(before, packages()) == {"sitecustomize"}


def test_lines_that_python_runs_at_its_start_are_seen(front: Path, tmp_path: Path) -> None:
    """A `.pth` file: it is there, or one byte of it is another; size and time are the same."""
    lines = front / "added.pth"
    with FileDigests(tmp_path / "hashes.sqlite") as digests:
        assert str(lines) not in Imports().startup(digests)
        lines.write_text("import math\n")
        os.utime(lines, (OLD, OLD))
        first = Imports().startup(digests)
        lines.write_text("import cmat\n")
        os.utime(lines, (OLD, OLD))
        second = Imports().startup(digests)
    assert {path for path in second if first[path] != second[path]} == {str(lines)}


@pytest.mark.parametrize("group", ["torch.backends", "triton.backends", "fsspec.specs"])
def test_what_pytorch_loads_by_an_entry_point_is_seen(front: Path, tmp_path: Path, group: str) -> None:
    """Nothing names the package: PyTorch loads whatever is installed as a backend."""
    about, code = front / "other-1.0.dist-info" / "entry_points.txt", front / "other_backend" / "inner.py"
    point = f"{group}: other = other_backend.inner:load"
    for path, content in (
        (about, f"[{group}]\nother = other_backend.inner:load\n[console_scripts]\nother = other_backend:main\n"),
        (about.with_name("METADATA"), "Name: other\nVersion: 1.0\n"),
        (code.with_name("__init__.py"), ""),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    with FileDigests(tmp_path / "hashes.sqlite") as digests:
        seen = []
        for content in ("ONE = 1\n", "ONE = 2\n"):
            code.write_text(content)
            os.utime(code, (OLD, OLD))
            seen.append(Imports().startup(digests))
        shutil.rmtree(about.parent)
        without = Imports().startup(digests)
    assert seen[0].keys() - without.keys() == {point}
    assert {name for name in seen[0] if seen[0][name] != seen[1][name]} == {point}


def test_a_result_is_not_used_again_when_a_backend_was_installed(front: Path, mirror: Path, tmp_path: Path) -> None:
    def measure() -> Evaluation:
        return evaluate(small.JOB, small.settings(tmp_path, mirror), progress=small.ignore)

    first = measure()
    about = front / "other-1.0.dist-info"
    about.mkdir()
    (front / "other_backend.py").write_text("def load():\n    pass\n")
    (about / "METADATA").write_text("Name: other\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[torch.backends]\nother = other_backend:load\n")
    second = measure()
    assert not second.reused
    assert second.key != first.key


def test_a_package_that_a_pth_file_leads_to_is_the_one_that_is_imported(
    packages: Callable[[], dict[str, str | None]], front: Path, tmp_path: Path
) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    site.mkdir()
    (elsewhere / "mamba_ssm").mkdir(parents=True)
    (elsewhere / "mamba_ssm" / "__init__.py").write_text("ONE = 1\n")
    (front / "sitecustomize.py").write_text(f"import site\nsite.addsitedir({str(site)!r})\n")
    before = packages()
    (site / "added.pth").write_text(f"import sys; sys.path.insert(0, {str(elsewhere)!r})\n")
    assert changed(before, packages()) == {"mamba_ssm"}


def test_a_result_is_not_used_again_when_a_pth_file_changed(front: Path, mirror: Path, tmp_path: Path) -> None:
    def measure() -> Evaluation:
        return evaluate(small.JOB, small.settings(tmp_path, mirror), progress=small.ignore)

    first = measure()
    assert measure().reused
    (front / "added.pth").write_text("import math\n")
    second = measure()
    assert not second.reused
    assert second.key != first.key


def test_a_library_in_front_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "lib"))
    with FileDigests(tmp_path / "hashes.sqlite") as digests:
        before = Imports().startup(digests)
        (tmp_path / "lib" / "libcublas.so.12").touch()
        after = Imports().startup(digests)
    assert {path for path in after if before[path] != after[path]} == {str(tmp_path / "lib")}


def test_it_looks_once_and_again_when_told_to(front: Path, tmp_path: Path) -> None:
    imports = Imports()
    with FileDigests(tmp_path / "hashes.sqlite") as digests:
        before = dict(imports.packages(digests))
        (front / "triton.py").write_text("1\n")
        assert imports.packages(digests) == before
        assert changed(before, imports.renewed().packages(digests)) == {"triton"}


def test_the_first_folder_that_holds_a_name_has_it_unless_it_is_no_package(tmp_path: Path) -> None:
    for path in ("a/one/__init__.py", "b/one/__init__.py", "a/two/data.txt", "b/two.py", "a/three/x", "b/four.pyc"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    places = find_places([tmp_path / "gone", tmp_path / "a", tmp_path / "b"])
    assert {name: place.name for name, place in places.items()} == {"one": "a", "two": "b", "three": "a", "four": "b"}


def test_folders_that_link_to_each_other_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "tree" / "a").mkdir(parents=True)
    (tmp_path / "tree" / "a" / "file").touch()
    (tmp_path / "tree" / "a" / "loop").symlink_to(tmp_path / "tree")
    (tmp_path / "tree" / "b").symlink_to("a")
    with FileDigests(tmp_path / "db") as digests:
        assert list(digests.tree(tmp_path / "tree")) == ["a/file", "b/file"]


def test_a_package_that_no_list_has_is_recorded_and_compared(front: Path, mirror: Path, tmp_path: Path) -> None:
    """sacrebleu imports portalocker, which is edited in place between two calls, then found elsewhere."""
    package = Imports().folder("portalocker")
    assert package is not None
    own = Path(shutil.copytree(package, front / "portalocker", ignore=shutil.ignore_patterns("__pycache__")))

    def measure() -> Evaluation:
        return evaluate(small.JOB, small.settings(tmp_path, mirror), progress=small.ignore)

    first = measure()
    assert measure().reused
    (own / "constants.py").write_text((own / "constants.py").read_text() + "# edited\n")
    second = measure()
    assert not second.reused
    assert second.key == first.key
    assert second.environment["recomputed_because"] == [f"imported / {own / 'constants.py'}: changed"]
    assert measure().reused
    own.rename(front / "hidden")
    third = measure()
    assert not third.reused
    said = third.environment["recomputed_because"]
    assert f"imported / portalocker: from {package.parent}, before from {front}" in said


def test_a_library_that_is_gone_is_a_change(tmp_path: Path) -> None:
    before = Imported(files={str(tmp_path / "lib.so"): "0" * 64}, places={})
    with FileDigests(tmp_path / "db") as digests:
        assert Imports().list_changes(before, digests) == [f"imported / {tmp_path / 'lib.so'}: changed"]
