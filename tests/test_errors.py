from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from scanproof.errors import EvaluationError, classify, describe, describe_exit, last_lines


class OutOfMemoryError(RuntimeError):
    """Has the name of torch's class."""


class GatedRepoError(OSError):
    """Has the name of the hub library's class."""


class LocalEntryNotFoundError(FileNotFoundError):
    """Has the name of the hub library's class."""


def json_error() -> Exception:
    with pytest.raises(ValueError, match="Expecting") as caught:
        json.loads("{")
    return caught.value


@pytest.mark.parametrize(
    ("stage", "error", "kind"),
    [
        ("requests", OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        ("requests", MemoryError(), "out_of_memory"),
        ("checkpoint", RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), "out_of_memory"),
        ("checkpoint", ConnectionRefusedError("refused"), "hub"),
        ("tasks", LocalEntryNotFoundError("cannot find the requested files in the disk cache"), "hub"),
        ("checkpoint", GatedRepoError("403"), "checkpoint"),
        ("tasks", GatedRepoError("403"), "dataset"),
        ("checkpoint", json_error(), "checkpoint"),
        ("checkpoint", pickle.UnpicklingError("Weights only load failed"), "checkpoint"),
        ("checkpoint", EOFError("Ran out of input"), "checkpoint"),
        ("tasks", json_error(), "dataset"),
        ("tasks", KeyError("validation"), "dataset"),
        ("model_class", ValueError("no model for this name found"), "model_class"),
        ("checkpoint", ModuleNotFoundError("No module named 'mamba_ssm'"), "worker"),
        ("requests", RuntimeError("CUDA error: an illegal memory access was encountered"), "worker"),
        ("scores", ZeroDivisionError(), "worker"),
    ],
)
def test_kind_follows_stage_and_type(stage: str, error: Exception, kind: str) -> None:
    assert classify(stage, error) == kind


def test_cause_decides_when_the_outer_error_says_nothing() -> None:
    outer = OSError("We couldn't connect to load the files")
    outer.__cause__ = TimeoutError("x")
    outer.__cause__.__context__ = ConnectionResetError("reset by peer")
    assert classify("checkpoint", outer) == "hub"
    assert "reset by peer" in describe(outer)


def test_notes_say_what_an_error_without_words_is_about() -> None:
    error = StopIteration()
    error.add_note("lm-eval cannot load piqa")
    assert describe(error) == "lm-eval cannot load piqa: StopIteration"


def test_error_crosses_process_boundaries() -> None:
    error = EvaluationError("killed", "the worker was killed", "last line", "/x/worker.log")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.kind, copy.message, copy.last_words, copy.log) == (
        "killed", "the worker was killed", "last line", "/x/worker.log",
    )  # fmt: skip
    assert str(copy) == str(error)


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (-9, "killed", "killed by SIGKILL, often the kernel's out-of-memory killer"),
        (-11, "killed", "SIGSEGV, a crash in native code"),
        (-64, "killed", "signal 64|SIGRTMAX"),
        (3, "worker", "exit code 3"),
    ],
)
def test_exit_status_is_put_into_words(code: int, kind: str, words: str) -> None:
    told = describe_exit(code)
    assert told[0] == kind
    assert any(word in told[1] for word in words.split("|"))


def test_last_lines_show_the_end_of_progress_bars_only(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_bytes(b"first\n 0%|\r 50%|##\r100%|####\nlast \xff\n\n")
    assert last_lines(log) == "first\n100%|####\nlast \ufffd"
    assert last_lines(log, 1) == "last \ufffd"
    assert last_lines(tmp_path / "none") == ""


def test_last_lines_of_a_long_log_are_read_from_its_end(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("line\n" * 100_000 + "end\n")
    assert last_lines(log, 2) == "line\nend"
