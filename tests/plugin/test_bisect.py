"""`scanproof bisect` finds the package that moves a number: real wheels, real pip, real pytest; no network."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from scanproof.triage.bisect import environments
from tests.support.small_project import HOOK, Project

NUMBER = "one-arc_easy-acc-author"
FOUND = """
    import tinyscale, tinyfirst, tinysecond
    answers = [["arc_easy", "acc", 0.5 * tinyscale.FACTOR, 2376], ["arc_easy", "acc_norm", 0.45, 2376],
               ["lambada_openai", "perplexity", 8.14, 5153]]
"""
SOURCES = {
    ("tinyscale", "1.0"): "FACTOR = 1.0",
    ("tinyscale", "2.0"): "FACTOR = 0.5",
    ("tinyfirst", "1.0"): "VERSION = 1",
    ("tinyfirst", "2.0"): "VERSION = 2",
    # Two packages that only work together.
    ("tinysecond", "1.0"): "import tinyfirst; assert tinyfirst.VERSION == 1",
    ("tinysecond", "2.0"): "import tinyfirst; assert tinyfirst.VERSION == 2",
    ("tinyunused", "1.0"): "",
    ("tinyunused", "2.0"): "",
}


def wheel(folder: Path, name: str, version: str, source: str) -> None:
    """A wheel of one module."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", source)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


def virtual_environment(folder: Path, name: str, wheels: Path, **versions: str) -> str:
    """A real one, with small packages of its own; everything else it finds where this Python finds it."""
    path = folder / name
    venv.create(path, with_pip=False, symlinks=True)
    (site,) = path.glob("lib/python*/site-packages")
    (site / "shared.pth").write_text("".join(f"{each}\n" for each in sys.path if each.endswith("site-packages")))
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(path), "install", "--quiet", "--no-deps", "--no-index",
         f"--find-links={wheels}", *(f"{package}=={version}" for package, version in versions.items())],
        check=True,
    )  # fmt: skip
    return str(path)


def lock(folder: Path, name: str, **versions: str) -> str:
    path = folder / name
    path.write_text("# a lock\n" + "".join(f"{package}=={version}\n" for package, version in versions.items()))
    return str(path)


@pytest.fixture
def wheels(project: Project) -> Path:
    """A project whose number depends on small packages, and a folder with their wheels."""
    folder = project.root / "wheels"
    folder.mkdir()
    for (name, version), source in SOURCES.items():
        wheel(folder, name, version, source)
    project.document(models=("one",))
    read = '    answers = json.loads((HERE / "answers.json").read_text())\n'
    assert read in HOOK
    project.pytester.makeconftest(HOOK.replace(read, FOUND.strip("\n") + "\n"))
    return folder


def bisect(project: Project, wheels: Path, good: str, bad: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "scanproof", "bisect", "--good", good, "--bad", bad, "--number", NUMBER,
        "--test", "test_published.py::test_published", "--pytest=--scanproof-expected=expected",
        "--pip=--no-index", f"--pip=--find-links={wheels}", "--format", "json", *options,
    ]  # fmt: skip
    return subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=False)


def test_the_package_that_moves_the_number_is_named(project: Project, wheels: Path) -> None:
    good = lock(project.root, "good.txt", tinyscale="1.0", tinyfirst="1.0", tinysecond="1.0", tinyunused="1.0")
    bad = lock(project.root, "bad.txt", tinyscale="2.0", tinyfirst="2.0", tinysecond="2.0", tinyunused="1.0")
    result = bisect(project, wheels, good, bad)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["packages"] == ["tinyscale"]
    assert found["alone"] is True
    assert found["versions"] == ["tinyscale 1.0 -> 2.0"]
    by_choice = {tuple(row["from_bad"]): row for row in found["tried"]}
    assert by_choice[()]["measured"] == 0.5
    assert by_choice[("tinyscale",)]["measured"] == 0.25
    assert {row["outcome"] for row in found["tried"]} == {"good", "bad", "unresolved"}
    kept = json.loads((project.root / ".scanproof" / "bisect" / f"{NUMBER}.json").read_text())
    assert kept["versions"] == [["tinyscale", "1.0", "2.0"]], "triage reads it"
    again = bisect(project, wheels, good, bad)
    rows = json.loads(again.stdout)["tried"]
    assert {row["outcome"] for row in rows if not row["reused"]} <= {"unresolved"}, "what is known is not run twice"


def test_the_package_is_named_between_two_virtual_environments(
    project: Project, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was tried is laid over the good one, which stays as it was."""
    # An editable scanproof is found through a .pth file, which is not read again behind another one.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    good = virtual_environment(
        project.root, "good", wheels, tinyscale="1.0", tinyfirst="1.0", tinysecond="1.0", tinyunused="1.0"
    )
    bad = virtual_environment(
        project.root, "bad", wheels, tinyscale="2.0", tinyfirst="1.0", tinysecond="1.0", tinyunused="2.0"
    )
    result = bisect(project, wheels, good, bad)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["versions"] == ["tinyscale 1.0 -> 2.0"], result.stdout
    assert {each for row in found["tried"] for each in row["from_bad"]} <= {"tinyscale", "tinyunused"}
    assert environments.read(good).versions["tinyscale"] == "1.0"


def test_an_environment_that_cannot_be_built_names_no_package(project: Project, wheels: Path) -> None:
    good = lock(project.root, "good.txt", tinyscale="1.0", tinyfirst="1.0", tinysecond="1.0")
    bad = lock(project.root, "bad.txt", tinyscale="9.9", tinyfirst="1.0", tinysecond="1.0")
    result = bisect(project, wheels, good, bad)
    assert result.returncode == 1, result.stderr
    found = json.loads(result.stdout)
    assert found["packages"] == []
    assert "does not show the fault here: unresolved" in found["because"]
    assert "cannot be built, see " in found["tried"][-1]["because"]


def test_an_environment_that_cannot_be_read_is_said(project: Project, wheels: Path) -> None:
    good = lock(project.root, "good.txt", tinyscale="1.0")
    loose = project.root / "loose.txt"
    loose.write_text("tinyscale>=1\n")
    result = bisect(project, wheels, good, str(loose))
    assert result.returncode == 2
    assert "loose.txt:1: 'tinyscale>=1' is not pinned" in result.stderr
    result = bisect(project, wheels, good, "nowhere")
    assert "neither a virtual environment nor a lock file" in result.stderr
