"""Three nights of one number in a local store, the last one failing, with texts that try to break out of a page."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scanproof import files, record
from scanproof.numbers.expected.reader import Expected
from scanproof.record import Run
from scanproof.report.content import Report
from scanproof.report.gather import Reporter
from tests.support.builders import CONSTANTS, published
from tests.support.small_history import ENVIRONMENT, STRICT_JOB, make_run, rows

NASTY = (
    "<!-- <script </script><script>document.title='run'</script>"
    """<img src=x onerror="document.title='run'">'"&amp;|`[x](y)`"""
    """" onfocus="document.title='run'" autofocus x=' javascript:document.title='run' {{ 7 * 7 }} """
    "\x1b]0;run\x07\u202e"
)
"""What a prompt, a model's name or a log may hold."""
NAMES = ("20261118T010000Z-aaaaaaaa", "20261119T010000Z-bbbbbbbb", "20261120T010000Z-cccccccc")
NUMBER = "mamba-130m-piqa-acc-reproduced"
RIGHT = (300, 300, 240)


def expected(folder: Path) -> Expected:
    """Two numbers, of which the runs hold one or both."""
    values = tuple(
        published(job=STRICT_JOB, task=task, documents=None, printed="0.7500") for task in ("piqa", "winogrande")
    )
    return Expected(
        values=values, unrecorded=(), documents=(), tasks={}, constants=CONSTANTS, folder=folder
    )  # fmt: skip


def environment(night: int) -> dict[str, Any]:
    """A new torch and a nasty package on the last night."""
    packages = {"lm-eval": "0.4.13", "torch": "2.13.0" if night == 2 else "2.12.1"}
    return {**ENVIRONMENT, "packages": {**packages, **({"nasty": NASTY} if night == 2 else {})}}


def make_nights(store: Path, right: Sequence[int] = RIGHT) -> list[Path]:
    """A run per entry, which says how many of 400 documents are right; returns their files."""
    return [
        make_run(store, name, {"piqa": rows(400, count), "winogrande": rows(400, 300)}, environment=environment(night))
        for night, (name, count) in enumerate(zip(NAMES, right, strict=False))
    ]


def texts(path: Path, prompt: str = NASTY) -> None:
    """Add what the documents of a run were asked."""
    folder = next((path.parent / "samples").iterdir())
    lines = [{"doc_id": doc, "prompts": [f"{prompt} {doc}"], "choices": [NASTY, " no"]} for doc in range(400)]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    (folder / "piqa.texts.jsonl.gz").write_bytes(gzip.compress(content))


def change(path: Path, **changes: Any) -> Run:
    """Write a run again with other fields."""
    run = replace(record.read_run(path), **changes)
    path.write_bytes(files.to_json(run))
    return run


def nasty(path: Path) -> None:
    """Put nasty text into every place of a run that comes from outside."""
    run = record.read_run(path)
    held = [
        replace(kept, hub_id=NASTY, model=NASTY, because=NASTY, command=NASTY, widened=NASTY) for kept in run.records
    ]
    held.append(replace(held[0], id=f"other-{NASTY}", nodeid="x", outcome="ERROR", verdict=None))
    change(path, records=tuple(held))


def report(path: Path, **given: Any) -> Report:
    """The report of a run in a local store."""
    store = path.parents[2]
    fields: dict[str, Any] = {"history": None, "expected": expected(store), **given}
    return Reporter(run=record.read_run(path), folder=path.parent, store=store, **fields).report()
