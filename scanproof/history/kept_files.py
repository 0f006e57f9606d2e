"""The files of answers beside a run: which they were when it was measured, and whether they still are these."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from scanproof import files
from scanproof.history.errors import HistoryError
from scanproof.record import Evaluation

LOGS = ".jsonl"
"""Ending of the files that answers are read from, whoever put them there."""
DIGITS = 12
"""Of a digest in a message."""
LARGEST = 1 << 32
"""Bytes of one file."""


def digest_files(folder: Path) -> dict[str, str]:
    """Path of each file below a folder, from there -> its SHA-256 in hex; raises OSError."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(files.read_bytes(path, LARGEST)).hexdigest()
        for path in sorted(folder.rglob("*"))
        if not files.is_folder(path)
    }


def list_other_files(kept: Mapping[str, str], folder: Path) -> Iterator[str]:
    """The files of a folder that are not those that were measured, in words.

    Args:
        kept: path of each file -> its SHA-256, as the run says; empty where it does not say them.
        folder: where the files are now.
    """
    if not kept:
        return
    try:
        now = digest_files(folder)
    except OSError as error:
        yield f"{error.filename or folder}: cannot be read: {error.strerror}"
        return
    for name, digest in kept.items():
        if name not in now:
            yield f"{folder / name}: it is gone since it was measured"
        elif now[name] != digest:
            said = f"its SHA-256 begins with {now[name][:DIGITS]}, the run says {digest[:DIGITS]}"
            yield f"{folder / name}: it is not the file that was measured: {said}"
    for name in now:
        if name not in kept and name.endswith(LOGS):
            yield f"{folder / name}: it is none of the files that were measured"


def require_measured_files(evaluation: Evaluation, folder: Path) -> None:
    """Raise HistoryError naming the first file of answers that is not the one that was measured."""
    other = list(list_other_files(evaluation.kept, folder))
    if other:
        more = f" (and {len(other) - 1} more files)" if len(other) > 1 else ""
        raise HistoryError(f"{other[0]}{more}")


def find_folder(run_folder: Path, evaluation: Evaluation) -> Path:
    """Where the answers of an evaluation are: beside its run, wherever that lies now, else where they were written."""
    beside = run_folder / "samples" / evaluation.job.name
    return beside if files.is_folder(beside) else Path(evaluation.samples)
