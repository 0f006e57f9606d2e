"""1. A run that broke says nothing about the numbers.  Pure."""

from __future__ import annotations

from scanproof.numbers.verdict.outcome import Outcome
from scanproof.triage.evidence import NO_EVIDENCE, Broken, Evidence
from scanproof.triage.finding import Finding, FindingKind, FindingState

ADVICE = {
    "killed": "the process was ended from outside; the kernel log tells whether memory ran out",
    "out_of_memory": "the machine's or the GPU's memory was too small",
    "hub": "the hub could not be reached",
    "checkpoint": "the checkpoint cannot be used",
    "dataset": "a dataset cannot be used",
    "missing": "the machine or the mirror lacks what the job needs",
    "timeout": "it took longer than --scanproof-timeout",
    "model_class": "the model class cannot be imported",
    "worker": "the worker failed",
    NO_EVIDENCE: "what was measured is no evidence: its answers are none, or it is not made of them",
}
NEXT = {
    "killed": "dmesg --ctime | grep -i -E 'killed process|out of memory'",
    "out_of_memory": "scanproof plan --format json  # what the job needs; free memory, or take a smaller batch_size",
    "hub": "scanproof prefetch --mirror DIR",
    "dataset": "scanproof prefetch --mirror DIR",
    "checkpoint": "scanproof prefetch --mirror DIR",
    "missing": "scanproof doctor",
    "model_class": "scanproof doctor",
}


def check(evidence: Evidence) -> list[Finding]:
    """The run broke, or did not run at all."""
    error = evidence.broken
    if error is None or error.kind == "fallback":
        return []
    kind = error.kind or "worker"
    skipped = evidence.outcome == Outcome.NOT_RUN
    title = f"{'not run' if skipped else 'a broken run, not a regression'}: {ADVICE.get(kind, kind)}"
    again = f"less {error.log}" if error.log else "scanproof doctor"
    return [
        Finding(
            kind=FindingKind.BROKEN, state=FindingState.CAUSE, title=title, evidence=told(error),
            next=NEXT.get(kind, again),
        )
    ]  # fmt: skip


def told(error: Broken) -> tuple[str, ...]:
    """Message, last words and log of an error."""
    lines = [line for line in error.message.splitlines() if line.strip()]
    words = [f"last words: {line}" for line in error.last_words.splitlines()[-3:]]
    return (*lines[:6], *words, *((f"log: {error.log}",) if error.log else ()))
