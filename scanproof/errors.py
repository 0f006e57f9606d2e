"""Why an evaluation could not be finished: one error type, and the rules that classify errors."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from scanproof.printable import make_printable

FailureKind = Literal[
    "killed", "out_of_memory", "hub", "checkpoint", "dataset", "missing", "timeout", "model_class", "worker",
    "fallback",
]  # fmt: skip

_UNREACHABLE = {
    "OfflineModeIsEnabled", "ConnectionError", "ConnectError", "ConnectTimeout", "ReadTimeout", "ProxyError",
    "SSLError", "ConnectionResetError", "ConnectionRefusedError", "gaierror", "MaxRetryError",
    "NameResolutionError",
}  # fmt: skip
_REFUSED = {
    "RepositoryNotFoundError", "GatedRepoError", "RevisionNotFoundError", "DisabledRepoError",
    "DatasetNotFoundError",
}  # fmt: skip
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_MEMORY = ("out of memory", "can't allocate memory")
_PROGRAM = (ImportError, TypeError, AttributeError, AssertionError, NotImplementedError, NameError)


class EvaluationError(Exception):
    """A job could not be run.  This says nothing about its numbers."""

    def __init__(self, kind: FailureKind, message: str, last_words: str = "", log: str | None = None) -> None:
        # Both tell names and texts of others: keys of a checkpoint, what a library wrote.
        message, last_words = make_printable(message, lines=True), make_printable(last_words, lines=True)
        super().__init__(kind, message, last_words, log)
        self.kind = kind
        """`missing`: the mirror does not hold what the job needs; `fallback`: it ran, but without the kernels that its
        numbers need; the others say what broke."""
        self.message = message
        self.last_words = last_words
        """The last lines the worker wrote."""
        self.log = log
        """File with everything the worker wrote, or None when no worker was started."""

    def __str__(self) -> str:
        lines = [f"{self.kind}: {self.message}"]
        if self.last_words:
            lines += ["last words of the worker:", *(f"    {line}" for line in self.last_words.splitlines())]
        if self.log:
            lines.append(f"log: {self.log}")
        return "\n".join(lines)


def classify(stage: str, error: BaseException) -> FailureKind:
    """The kind of an exception raised in a worker's stage (`start`, `checkpoint`, `tasks`, `requests`, ...).

    Judged by the names of the types in the chain of causes, so that no heavy library has to be imported.
    """
    chain = list(_chain(error))
    names = {base.__name__ for link in chain for base in type(link).__mro__}
    texts = " ".join(str(link) for link in chain).lower()
    if names & {"OutOfMemoryError", "MemoryError"} or any(words in texts for words in _MEMORY):
        return "out_of_memory"
    data: FailureKind = "dataset" if stage == "tasks" else "checkpoint"
    if names & _REFUSED and not names & _UNREACHABLE:
        return data
    if names & _UNREACHABLE or "LocalEntryNotFoundError" in names or "HfHubHTTPError" in names:
        return "hub"
    if stage == "model_class":
        return "model_class"
    if stage in ("checkpoint", "tasks") and not isinstance(error, _PROGRAM):
        return data
    return "worker"


def describe(error: BaseException) -> str:
    """Type and text of an exception and of its causes: three at most, 800 characters each; before them, its notes."""
    told: list[str] = []
    for link in _chain(error):
        text = str(link).strip()
        if text and not any(text in earlier for earlier in told):
            told.append(f"{type(link).__name__}: {text}"[:800])
    notes = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
    return notes + ("\n".join(told[:3]) or type(error).__name__)


def describe_exit(code: int) -> tuple[FailureKind, str]:
    """Kind and message for a worker that left no result, from its exit status."""
    if code >= 0:
        return "worker", f"the worker {how_it_ended(code)} and left no result"
    return "killed", f"the worker {how_it_ended(code)}"


def how_it_ended(code: int) -> str:
    """The exit status of a process in words, to follow its name: `ended with exit code 1`."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in {s.value for s in signal.Signals} else f"signal {-code}"
    causes = {
        "SIGKILL": ", often the kernel's out-of-memory killer (see dmesg) or a person's kill -9",
        "SIGSEGV": ", a crash in native code",
        "SIGABRT": ", an abort in native code",
        "SIGBUS": ", often a full /dev/shm or a file that was truncated while it was read",
        "SIGILL": ", a package built for another CPU",
        "SIGTERM": ", somebody asked it to stop",
    }
    return f"was killed by {name}{causes.get(name, '')}"


def last_lines(log: Path, count: int = 20) -> str:
    """The end of a log, progress bars (carriage returns) reduced to their last state."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 64 * 1024))
        text = file.read().decode("utf-8", "replace")
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in _COLOURS.sub("", text).split("\n")]
    return "\n".join([line for line in lines if line][-count:])


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
