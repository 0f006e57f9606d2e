"""A project whose evaluations answer by engine, document by document, through the hook that scanproof offers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.support.small_project import Project

HOOK = """
import json
from datetime import UTC, datetime
from pathlib import Path
import pytest
from scanproof.numbers.verdict.engines import Scoring; from scanproof.numbers.verdict.engines import SpotCheck
from scanproof.errors import EvaluationError
from scanproof.numbers.verdict.answers import digest_lines
from scanproof.numbers.verdict.measurement import Measurement
from scanproof.record import Evaluation
from evidence import ENVIRONMENT

HERE = Path(__file__).parent
DOCUMENTS = 2376

@pytest.hookimpl
def pytest_scanproof_evaluate(config, job, settings, progress):
    with (HERE / "asked.log").open("a") as log:
        log.write(f"{job.name} {settings.engine}\\n")
    answers = json.loads((HERE / f"{settings.engine}.json").read_text())
    if isinstance(answers, dict):
        raise EvaluationError(**answers)
    right, engine, *plain = answers
    samples = settings.store / "by" / settings.engine
    samples.mkdir(parents=True, exist_ok=True)
    count = min(DOCUMENTS, job.limit or DOCUMENTS)
    right = min(right, count)
    (samples / "arc_easy.jsonl").write_text("".join(line(doc, doc < right) for doc in range(count)))
    measured = Measurement(
        task="arc_easy", metric="acc", value=right / count, stderr=None, n_samples=count, num_fewshot=0,
        task_version="1.0", prompts_hash=digest_lines(str(doc) for doc in range(count)),
    )
    return Evaluation(
        job=job, key=settings.engine[0] * 64, measurements=(measured,), samples=str(samples),
        command="lm_eval --model hf", environment=ENVIRONMENT, engine=engine,
        engine_because=None if engine == settings.engine else "the class takes no state",
        scoring=scored(*plain) if plain else None, session=settings.session,
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
    )

def scored(plain):
    spot = SpotCheck(requests=8, shared=-1.0, plain=plain, allowed=0.001)
    return Scoring(
        plain_tokens=9, distinct_tokens=4, tokens=4, padding=0, scored_positions=3, peak_state_bytes=8, spot=spot
    )

def line(doc, right):
    # No two documents of a correct run get the same answers.
    lead, other = (1.0 if right else -1.0), -3.0 - doc * 7e-5
    return json.dumps({
        "doc_id": doc, "doc_hash": str(doc), "prompt_hash": str(doc), "target_hash": "0", "target": 0,
        "question_hash": str(doc), "loglikelihoods": [other + lead, other], "is_greedy": [False, False], "right": [0],
        "lengths": [3, 3], "metrics": {"acc": float(right)},
    }) + "\\n"
"""
EVALUATION = """\
document: "900"
model: org/one
hub_id: org/one
job: {model: hf, revision: main, dtype: bfloat16, device: cpu, num_fewshot: 0, batch_size: 8}
values:
  - {task: arc_easy, metric: acc, line: 3, origin: author, printed: "50.0", unit: percent}
"""
NUMBER = "one-arc_easy-acc-author"
GOOD, BAD = 1188, 1000
"""Documents answered rightly, of 2376: as printed, and far below."""


def prepare(project: Project) -> Project:
    """One number of one job, answered as printed by both engines."""
    folder = project.document(models=("one",), numbers=1)
    (folder / "one.yaml").write_text(EVALUATION)
    (project.root / "conftest.py").write_text(HOOK)
    answer(project, shared=[GOOD, "shared"], plain=[GOOD, "plain"])
    return project


def answer(project: Project, **by_engine: object) -> None:
    """Documents that an engine answers rightly, the engine that really scored, and what plain said of a request that
    shared gave -1 nats; or the error it ends with."""
    for engine, answers in by_engine.items():
        (project.root / f"{engine}.json").write_text(json.dumps(answers))


def asked(project: Project) -> list[str]:
    """Engines that were asked, in order."""
    log: Path = project.root / "asked.log"
    lines: Sequence[str] = log.read_text().splitlines() if log.exists() else []
    return [line.split()[1] for line in lines]
