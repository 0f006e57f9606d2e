"""Fetch one file from the hub; resumes where an earlier attempt stopped, and checks the hub's digest."""

from __future__ import annotations

import hashlib
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ATTEMPTS = 5
"""A download gives up after this many connections in a row that brought no byte."""
PAUSE_SECONDS = 0.5
"""Pause before the second connection; it doubles with each failure, up to 10 s."""
_BLOCK = 1 << 20


class PrefetchError(Exception):
    """A repository that cannot be mirrored; the message names it and says what to do."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file of a repository."""

    path: str
    size: int
    """Bytes."""
    sha256: str | None
    """Digest of a large file; None where the hub gives only git's digest."""
    git_sha1: str | None
    """Git's digest of the file as a blob; None for a large file."""


def fetch_file(url: str, path: Path, file: RemoteFile, report: Callable[[int], None]) -> None:
    """Append the missing bytes of `file` to `path`, over as many connections as needed, and check its digest.

    `report` is called with the number of bytes that have arrived.

    Raises:
        PrefetchError: the download gave up, and the next call resumes it; or the digest is wrong, and the file is
            deleted.
    """
    failures = 0
    while size_of(path) < file.size or not path.exists():
        before = size_of(path)
        try:
            _receive(url, path, report)
        except OSError as error:
            if error.errno is not None and not isinstance(error, ConnectionError):
                raise PrefetchError(f"{path} cannot be written: {error}") from error
            failures = _failed_again(error, url, failures if size_of(path) == before else 0)
        except Exception as error:
            failures = _failed_again(error, url, failures if size_of(path) == before else 0)
    if not is_intact(path, file):
        path.unlink()
        raise PrefetchError(f"{url}: the bytes that arrived are not those the hub states; run it again")


def _failed_again(error: Exception, url: str, failures: int) -> int:
    """Count a broken connection and wait; raises PrefetchError when another attempt would not help."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if (status is not None and status < 500) or failures + 1 >= ATTEMPTS:
        reason = explain_error(error, url, "")
        raise PrefetchError(f"{reason}; what has arrived is kept, run it again to resume") from error
    time.sleep(min(PAUSE_SECONDS * 2**failures, 10))
    return failures + 1


def _receive(url: str, path: Path, report: Callable[[int], None]) -> None:
    """Receive over one connection, from the first missing byte until the file ends or the connection breaks."""
    hub = importlib.import_module("huggingface_hub.utils")
    received = size_of(path)
    headers = hub.build_hf_headers()
    # Bytes are counted against the stated size, so they must not be compressed on the way.
    headers["Accept-Encoding"] = "identity"
    if received:
        headers["Range"] = f"bytes={received}-"
    with hub.get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=60) as response:
        hub.hf_raise_for_status(response)
        resumed = response.status_code == 206
        received = received if resumed else 0
        with path.open("ab" if resumed else "wb") as out:
            for block in response.iter_raw():
                out.write(block)
                received += len(block)
                report(received)


def is_intact(path: Path, file: RemoteFile) -> bool:
    """Whether the file exists with the size and the digest that the hub states."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    if file.sha256 is not None:
        return _digest(path, hashlib.sha256()) == file.sha256
    if file.git_sha1 is not None:
        return _digest(path, hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)) == file.git_sha1
    return True


def size_of(path: Path) -> int:
    """Bytes of a file; 0 when it does not exist."""
    return path.stat().st_size if path.is_file() else 0


def _digest(path: Path, digest: Any) -> str:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return str(digest.hexdigest())


def explain_error(error: Exception, where: str, revision: str) -> str:
    """Say to the user what went wrong; `where` is a repository and its host, or an address."""
    types = {base.__name__ for base in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if "GatedRepoError" in types or status == 403:
        return f"{where} is gated: accept its conditions on its page, then set HF_TOKEN to that account's token"
    if "RevisionNotFoundError" in types:
        return f"{where} has no revision {revision}"
    if "RepositoryNotFoundError" in types or status in (401, 404):
        return f"{where} does not exist, or it is private and HF_TOKEN may not read it (HTTP {status})"
    reason = str(error).partition("\n")[0]
    return f"{where} cannot be reached: {type(error).__name__}: {reason}"
