"""A mirror is a folder that serves models and datasets without network: `<mirror>/<organisation>/<name>/`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanproof import files
from scanproof.models.checkpoint_files import RepoType

METADATA = ".scanproof-mirror.json"
"""File that `scanproof prefetch` writes into the folder of each repository."""
UNFINISHED = ".scanproof-prefetch"
"""Folder of files that are still being downloaded; it is removed when the repository is complete."""
PUBMEDQA = "bigbio/pubmed_qa"
"""A dataset whose repository on the hub is a script; `scanproof.evaluation.hub.pubmedqa` has its data."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


class MirrorError(Exception):
    """A name that the mirror cannot serve; the message says what to do."""


class NotInMirror(MirrorError):
    """A repository that the mirror does not hold, or holds only in part."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A folder of the mirror, and its origin as far as it is known."""

    name: str
    folder: Path
    revision: str | None
    """Revision that was requested when the folder was filled; None when it was filled by hand."""
    commit: str | None
    """Commit that the hub resolved the revision to."""


def resolve(mirror: Path, name: str, kind: RepoType, revision: str | None = None) -> Served:
    """The folder that serves `name`.

    A folder without `.scanproof-mirror.json` was filled by hand: its revision is unknown and accepted.

    Raises:
        MirrorError: it is missing or incomplete, or it holds another kind of repository or another revision.
    """
    folder = locate(mirror, name, kind)
    if (folder / UNFINISHED).exists():
        raise NotInMirror(
            f"{folder} is incomplete: a prefetch was interrupted; it resumes with {prefetch_command(name, kind)}"
        )
    origin = read_metadata(folder)
    served = Served(name=name, folder=folder, revision=origin.get("revision"), commit=origin.get("commit"))
    if origin and origin.get("type") not in (None, kind):
        raise MirrorError(f"{folder} holds the {origin['type']} {name}, a {kind} is needed")
    if revision is not None and origin and not _same_revision(revision, served):
        raise MirrorError(
            f"{folder} holds revision {served.revision} (commit {served.commit}), the job asks for {revision};"
            f" fill another mirror, or delete that folder and run {prefetch_command(name, kind)}"
        )
    return served


def locate(mirror: Path, name: str, kind: RepoType) -> Path:
    """The folder of `name`; raises MirrorError when it does not exist or is empty."""
    if not _NAME.fullmatch(name):
        raise MirrorError(f"{name!r} is not a hub name (organisation/name)")
    if not mirror.is_dir():
        raise MirrorError(f"the mirror {mirror} is not a folder; create it with scanproof prefetch")
    folder = mirror / name
    if not folder.is_dir() or not any(folder.iterdir()):
        raise NotInMirror(f"the mirror {mirror} has no {kind} {name}; run {prefetch_command(name, kind)}")
    return folder


def read_metadata(folder: Path) -> dict[str, Any]:
    """The metadata that `scanproof prefetch` wrote into a folder; empty when it was filled by hand."""
    path = folder / METADATA
    if not path.is_file():
        return {}
    try:
        content = files.read_json(path)
    except ValueError as error:
        raise MirrorError(f"{path} is not JSON ({error}); delete the folder and prefetch again") from error
    if not isinstance(content, dict):
        raise MirrorError(f"{path} is not a JSON object; delete the folder and run prefetch again")
    return content


def prefetch_command(name: str, kind: RepoType) -> str:
    """The command that fills a mirror with one repository."""
    if name == PUBMEDQA:
        return "scanproof import-pubmedqa (docs/models.md says where its data are)"
    return f"scanproof prefetch --{kind} {name}"


def _same_revision(asked: str, served: Served) -> bool:
    """Whether the folder holds the requested revision, which may be a commit of at least 7 digits."""
    by_commit = served.commit is not None and len(asked) >= 7 and served.commit.startswith(asked)
    return asked == served.revision or by_commit
