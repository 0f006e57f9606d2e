"""The type of a fault of the gates, and the ways to plant one: all change the folder in which a session then runs."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from scanproof import files
from scanproof.faults.gates.endings import Ending

CONFTEST = "conftest.py"
PACKAGES = "packages"
"""Folder of a session that `import` looks in first."""
PLANTED = "SCANPROOF_GATE_FAULT"
"""Variable that names the fault which a worker plants into itself."""
MARK = "SCANPROOF_GATE_FAULT_PLANTED"
"""Variable that names the file which a worker writes when its fault is planted."""

SHARED = "--scanproof-engine=shared"
"""The engine that sessions of the exam ask for: `auto` would measure each failure a second time."""
AUTO = ("--scanproof-strict",)
STRICT = (*AUTO, SHARED)
REUSING = (*STRICT, "--scanproof-reuse")
LENIENT = (SHARED,)
"""Not strict: what nothing has changed is reused."""


class NotPlantedError(RuntimeError):
    """A fault could not be planted, so that its session says nothing; the message says why."""


class Before(Enum):
    """What was measured before the session that has the fault."""

    NOTHING = "nothing"
    CLEAN_HERE = "a session without a fault, in the same folder"
    KEPT_SPOILED = "the evaluation of a spoiled checkpoint, in the store"
    """The checkpoint in the mirror is the spoiled one too.  Such a session takes a second or two."""
    KEPT_CLEAN = "the evaluation of the right checkpoint, in the store"


class FolderChange(ABC):
    """One change of a session's folder."""

    way: ClassVar[str] = "file"
    """How it is planted, in a word."""

    @abstractmethod
    def apply(self, folder: Path, variables: dict[str, str]) -> None:
        """Change the folder, or the variables that the session runs with; raises NotPlantedError."""


@dataclass(frozen=True)
class Edit(FolderChange):
    """Changes the bytes of files."""

    pattern: str
    """Path in the session's folder, in which `*` and `**` stand for anything; every file that fits is changed."""
    change: Callable[[bytes], bytes]
    keeps_size_and_time: bool = False
    """The file has its old times of modification afterwards, and must have its old size."""

    def apply(self, folder: Path, variables: dict[str, str]) -> None:
        if self.pattern.startswith(f"{PACKAGES}/"):
            own_package_file(folder / PACKAGES, self.pattern.removeprefix(f"{PACKAGES}/"))
        paths = [path for path in sorted(folder.glob(self.pattern)) if path.is_file()]
        if not paths:
            raise NotPlantedError(f"no file fits {self.pattern}")
        for path in paths:
            before, status = path.read_bytes(), path.stat()
            after = self.change(before)
            if after == before:
                raise NotPlantedError(f"{path.relative_to(folder)} is as it was")
            if self.keeps_size_and_time and len(after) != len(before):
                raise NotPlantedError(f"{path.relative_to(folder)} is not as large as it was")
            path.unlink()
            path.write_bytes(after)
            if self.keeps_size_and_time:
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@dataclass(frozen=True)
class Remove(FolderChange):
    """Removes files or folders."""

    pattern: str

    def apply(self, folder: Path, variables: dict[str, str]) -> None:
        paths = sorted(folder.glob(self.pattern))
        if not paths:
            raise NotPlantedError(f"no file fits {self.pattern}")
        for path in paths:
            files.remove(path)


@dataclass(frozen=True)
class Write(FolderChange):
    """Writes a file, in place of one that may be there."""

    path: str
    text: str

    def apply(self, folder: Path, variables: dict[str, str]) -> None:
        target = folder / self.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_text(self.text)


@dataclass(frozen=True)
class Copy(FolderChange):
    """Puts one file in place of another."""

    source: str
    path: str

    def apply(self, folder: Path, variables: dict[str, str]) -> None:
        source, target = folder / self.source, folder / self.path
        if source.read_bytes() == target.read_bytes():
            raise NotPlantedError(f"{self.path} is the same as {self.source}")
        target.unlink()
        shutil.copyfile(source, target)


@dataclass(frozen=True)
class InWorker(FolderChange):
    """Replaces functions of lm-eval or of the model in the process that evaluates."""

    way: ClassVar[str] = "worker"
    name: str
    """A function of `asked_otherwise` or `scored_otherwise`."""

    def apply(self, folder: Path, variables: dict[str, str]) -> None:
        variables[PLANTED] = self.name
        variables[MARK] = str(folder / "planted")


@dataclass(frozen=True)
class Conftest(FolderChange):
    """Adds to the session's conftest.py, as a user or another plugin does."""

    way: ClassVar[str] = "conftest"
    text: str

    def apply(self, folder: Path, variables: dict[str, str]) -> None:
        with (folder / CONFTEST).open("a") as file:
            file.write(f"\n\n{self.text}\n")


@dataclass(frozen=True)
class GateFault:
    """One fault, how it is planted, and how the session has to end."""

    id: str
    area: str
    """What it is a fault of: prompts, datasets, options, ..."""
    what: str
    """What is wrong, in one sentence."""
    changes: tuple[FolderChange, ...]
    ending: Ending
    """How the session has to fail."""
    numbers: str = "piqa"
    """Which of the stand-in's numbers are selected, for pytest's `-k`."""
    options: tuple[str, ...] = STRICT
    variables: Mapping[str, str] = field(default_factory=dict)
    before: Before = Before.NOTHING
    reuses: bool | None = None
    """Whether the session has to use the evaluation that was there before it, or must not; None where it is over before
    it comes to that."""

    @property
    def needs_new_workers(self) -> bool:
        """Whether its workers have to load their packages anew: it is a fault of these, or of the variables."""
        named = [str(getattr(change, "pattern", getattr(change, "path", ""))) for change in self.changes]
        return bool(self.variables) or any(name.startswith(f"{PACKAGES}/") for name in named)

    @property
    def planted_by(self) -> str:
        """How it is planted, in a word or two."""
        kinds = dict.fromkeys(change.way for change in self.changes)
        if self.options not in (AUTO, STRICT, REUSING, LENIENT):
            kinds["option"] = None
        if self.variables:
            kinds["variable"] = None
        if self.before is Before.KEPT_SPOILED:
            kinds["spoiled checkpoint"] = None
        return ", ".join(kinds)


def after_a_session(
    name: str, area: str, what: str, *changes: FolderChange, ending: Ending, numbers: str = "piqa"
) -> GateFault:
    """A fault that comes after a session without one, in a session that reuses whatever has not changed."""
    return GateFault(
        name, area, what, changes, ending, numbers, options=LENIENT, before=Before.CLEAN_HERE, reuses=False
    )


def own_package_file(packages: Path, name: str) -> Path:
    """Make a file of an installed package the folder's own, and those beside it copies, as they may name each other.

    All others of the package are links to where they are.
    """
    package = name.partition("/")[0]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise NotPlantedError(f"{package} is not installed")
    source, here = Path(spec.origin).parent.parent, packages
    for part in Path(name).parts[:-1]:
        source, here = source / part, here / part
        link_children(source, here)
    for link in [path for path in here.iterdir() if path.is_symlink() and path.is_file()]:
        target = link.resolve()
        link.unlink()
        shutil.copyfile(target, link)
    return packages / name


def link_children(source: Path, here: Path) -> None:
    """Make a folder with a link to each child of another; one that is there stays."""
    if here.is_symlink():
        here.unlink()
    elif here.is_dir():
        return
    here.mkdir(parents=True)
    for child in source.iterdir():
        if child.name != "__pycache__":
            (here / child.name).symlink_to(child)
