"""Runs the worker that scores documents again with replaced operations, and keeps what it found beside the run."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scanproof import files
from scanproof.errors import EvaluationError
from scanproof.evaluation.request import Settings, request_for_worker
from scanproof.triage import moves
from scanproof.triage.evidence import Evidence, Side, Substituted
from scanproof.triage.gather import substituted_file
from scanproof.triage.moves import Task

MOST = 16
"""Documents that are scored again: those that flipped, the farthest moved first."""


class CannotSubstitute(Exception):
    """The documents cannot be scored again; the message says why."""


def substitute(evidence: Evidence, folder: Path, root: Path, mirror: Path | None) -> Substituted:
    """Score the documents that flipped again, one operation at a time replaced; kept beside the run.

    Raises CannotSubstitute.
    """
    side, task = chosen(evidence)
    documents = of_task(task)
    now = evidence.now
    assert now is not None
    assert now.job is not None
    settings = Settings(store=root.resolve(), mirror=mirror, fresh=False, timeout=None, session="triage")
    try:
        request, environment = request_for_worker(now.job, settings)
    except EvaluationError as error:
        raise CannotSubstitute(str(error)) from None
    request |= {"documents": documents, "limit": moves.find_threshold(side), "task": task.name}
    substituted = run(request, environment)
    path = substituted_file(folder, evidence.number)
    files.write_atomically(path, files.to_json(substituted))
    return substituted


def chosen(evidence: Evidence) -> tuple[Side, Task]:
    """The task with the farthest moved document, and what its answers are held against."""
    side = evidence.answers
    if side is None or evidence.now is None or evidence.now.job is None:
        raise CannotSubstitute("there are no answers to restore: no good run of this job, and no recorded ones")
    tasks = [task for task in moves.pair_tasks(evidence, side) if moves.has_same_questions(task) and task.now.texts]
    if not tasks:
        raise CannotSubstitute("the questions of this run are not those of the reference, or were not kept")
    return side, max(tasks, key=lambda task: max(moved for _, moved in moves.measure_moves(task)))


def of_task(task: Task) -> list[dict[str, Any]]:
    """Questions and reference answers of the documents to score, the farthest moved first; flipped ones before others.

    Raises CannotSubstitute where nothing moved, or the task generates text.
    """
    old, new = task.before.samples, task.now.samples
    moved = dict(moves.measure_moves(task))
    scores = old.metrics.get(task.metric, ()), new.metrics.get(task.metric, ())
    flipped = {doc for doc, a, b in zip(new.doc_ids, *scores, strict=False) if a != b and {a, b} <= {0.0, 1.0}}
    order = sorted(new.doc_ids, key=lambda doc: (doc not in flipped, -moved[doc]))
    texts = task.now.texts or {}
    if not any(moved.values()):
        raise CannotSubstitute("no answer moved at all: there is nothing to restore")
    places = {doc: place for place, doc in enumerate(old.doc_ids)}
    questions = [
        {**question(texts[doc]), "doc_id": doc, "answers": list(old.loglikelihoods[places[doc]])}
        for doc in order[:MOST]
        if len(texts[doc]["choices"]) == len(old.loglikelihoods[places[doc]]) > 0
    ]
    if not questions:
        raise CannotSubstitute(f"{task.name}: its documents were not answered with log-likelihoods")
    return questions


def question(line: Mapping[str, Any]) -> dict[str, Any]:
    return {"prompts": line["prompts"], "choices": line["choices"]}


def run(request: Mapping[str, Any], environment: Mapping[str, str]) -> Substituted:
    """The worker, in a folder that is gone afterwards.  Raises CannotSubstitute with its last words."""
    with tempfile.TemporaryDirectory(prefix="scanproof-triage-") as name:
        given, out = Path(name) / "request.json", Path(name) / "out.json"
        given.write_text(json.dumps(request))
        command = [sys.executable, "-m", "scanproof.evaluation.worker.substitution.score", str(given), str(out)]
        # The folder that holds the package, so that a clone works without being installed.
        here = Path(__file__).resolve().parents[2]
        # Without SCANPROOF_WORKER, which would tie the worker to a standard input that nobody holds.
        variables = {key: value for key, value in environment.items() if key != "SCANPROOF_WORKER"}
        ended = subprocess.run(command, cwd=here, env=variables, capture_output=True, text=True, check=False)
        if ended.returncode or not out.is_file():
            words = "\n".join(f"    {line}" for line in ended.stderr.strip().splitlines()[-8:])
            raise CannotSubstitute(f"the worker failed (exit code {ended.returncode}); its last words:\n{words}")
        content = out.read_bytes()
        try:
            return files.from_json(Substituted, content)
        except ValidationError as error:
            raise CannotSubstitute(f"the worker left something else: {error.errors()[0]['msg']}") from None
