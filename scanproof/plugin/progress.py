"""Shows how far an evaluation has come, while pytest captures everything else."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import pytest

from scanproof.evaluation.process import Progress
from scanproof.numbers.values import EvalJob

LINE_EVERY_SECONDS = 10.0
"""Where the terminal cannot rewrite a line, one line per stage and one every so often."""


STAGES = {
    "waiting": "waiting for another process",
    "start": "starting",
    "model_class": "importing the model class",
    "checkpoint": "loading the checkpoint",
    "tasks": "loading the tasks",
    "prompts": "building prompts",
    "requests": "scoring",
    "scores": "computing metrics",
    "write": "saving",
}
"""What a reader is told of each stage of the worker."""


class ProgressLine:
    """Writes progress to pytest's terminal: one line that is rewritten, or in a log now and then a new one.

    `place` says which of the session's jobs this is, `[3/8]`.
    """

    def __init__(self, config: pytest.Config, job: EvalJob, place: str) -> None:
        self.reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        self.capture: Any = config.pluginmanager.get_plugin("capturemanager")
        self.name = f"{place} {job.name}"
        self.stage = ""
        self.shown = 0.0
        self.rewrites = bool(self.reporter and self.reporter._tw.hasmarkup)

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.rewrites and self.stage:
            self.write("\r\x1b[K")

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        due = progress.stage != self.stage or self.rewrites or now - self.shown >= LINE_EVERY_SECONDS
        if self.reporter is None or not due:
            return
        self.stage, self.shown = progress.stage, now
        count = f" {progress.done}/{progress.total}" if progress.total else ""
        stage = STAGES.get(progress.stage, progress.stage)
        text = f"{self.name}: {stage}{count} ({progress.seconds:.0f} s)"
        self.write(f"\r\x1b[K{text[: self.reporter._tw.fullwidth - 1]}" if self.rewrites else f"\n{text}")

    def write(self, text: str) -> None:
        """Write past pytest's capture."""
        if self.capture is None:
            self.reporter.write(text, flush=True)
            return
        with self.capture.global_and_fixture_disabled():
            self.reporter.write(text, flush=True)
