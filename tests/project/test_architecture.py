"""docs/architecture.md has a line for every folder of the package, and names no folder that is gone."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "scanproof"
BLOCKS = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1::2]
NAMES = re.compile(r"^ *(?:\.?\w+/ +)*\.?\w+/(?= |$)", re.M)


def folders_of_the_package() -> set[str]:
    """Folders with code or files of the package; the mirror's own folders are data."""
    inner = {path for path in PACKAGE.rglob("*") if path.is_dir() and "__pycache__" not in path.parts}
    return {
        path.relative_to(PACKAGE).as_posix() for path in inner if PACKAGE / "embedded" / "mirror" not in path.parents
    }


def listed_folders(block: str) -> list[str]:
    """Paths of the folders that a drawing lists: two spaces more are one folder deeper."""
    folders: list[str] = []
    above: list[str] = []
    for line in block.splitlines():
        names = NAMES.match(line)
        if names is None:
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        above = above[:depth]
        folders += ["/".join([*above, name.rstrip("/")]) for name in names[0].split()]
        above.append(names[0].split()[0].rstrip("/"))
    return folders


def test_every_folder_of_the_package_has_a_line_and_every_line_its_folder() -> None:
    listed = [name.removeprefix("scanproof/") for name in listed_folders(BLOCKS[0]) if name != "scanproof"]
    assert sorted(listed) == sorted(folders_of_the_package())


def test_every_folder_beside_the_package_that_is_named_exists() -> None:
    named = [name for block in BLOCKS[1:] for name in listed_folders(block)]
    assert {"expected", "tests", "benchmarks", "tools", "records", "constraints", "docs", "tests/kernels_unit"} <= set(
        named
    )
    assert [name for name in named if not (ROOT / name).is_dir()] == []


def test_every_folder_of_tests_has_a_line() -> None:
    (block,) = [block for block in BLOCKS if block.lstrip().startswith("tests/")]
    rooms = {f"tests/{path.name}" for path in PACKAGE.iterdir() if path.is_dir()}
    folders = {
        f"tests/{path.name}" for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name[0] not in "_."
    }
    # "tests of every other room, in a folder of its name"
    assert folders - rooms <= {*listed_folders(block)}
