"""Under which conditions a step ran: a result counts under the same ones only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TESTED = ("scanproof", "tests", "tools", "benchmarks", "expected", "conftest.py", "pyproject.toml")
"""What decides what a step does."""


def of_machine(about: Mapping[str, Any], cache: Path, root: Path = ROOT) -> dict[str, Any]:
    """The conditions of a step that begins now, each by its name; as JSON has them.

    Args:
        about: what `scanproof.environment.snapshot` says of this machine and of the clone.
        cache: file of digests, so that files that did not change are not read again.
        root: folder of the clone, or of a copy of its files.
    """
    from scanproof.evaluation.file_digests import FileDigests
    from scanproof.evaluation.imported import Imports

    with FileDigests(cache) as digests:
        # By content: a package may be built twice as one version, or edited in place.
        installed = Imports().packages(digests)
    source = about.get("source") or {}
    return {
        "commit": source.get("commit"),
        "uncommitted changes": source.get("changed"),
        # Two sets of uncommitted changes differ, and a copy without a clone has no commit.
        "files": digest_files(root),
        "GPU": [gpu["name"] for gpu in about["gpus"]],
        "driver": [gpu["driver_version"] for gpu in about["gpus"]],
        "Python": about["python"],
        "packages": dict(about["packages"]),
        "installed files": dict(installed),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The conditions that differ, with the value before where it is short; empty where a result counts now."""
    if not before:
        return ["they were not kept"]
    return [_said(name, before.get(name)) for name in now if name not in before or before[name] != now[name]]


def _said(name: str, value: Any) -> str:
    if name == "commit":
        return f"commit {str(value)[:10]}" if value else "no known commit"
    return f"{name} {', '.join(value)}" if isinstance(value, list) and value else name


def digest_files(root: Path) -> str:
    """Digest of every file that decides what a step does, by name and content, untracked ones included."""
    digest = hashlib.sha256()
    for path in _tested(root):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root)} {content}\n".encode())
    return digest.hexdigest()


def _tested(root: Path) -> Iterator[Path]:
    for place in (root / name for name in TESTED):
        paths = sorted(place.rglob("*")) if place.is_dir() else [place]
        yield from (path for path in paths if path.is_file() and "__pycache__" not in path.parts)
