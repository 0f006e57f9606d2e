"""Does an evaluation belong to the job that was asked for, and does it bring its evidence?

A hook may measure anywhere.  What it returns is checked before anything is compared with it: the job's fields, the
tasks, shots and versions, the documents and prompts of the kept answers, and what ran.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from scanproof.errors import EvaluationError
from scanproof.evaluation import job_match, task_files
from scanproof.evaluation.imported import Imports
from scanproof.evaluation.request import Settings
from scanproof.history.baseline import read_probe_tokens
from scanproof.history.errors import HistoryError
from scanproof.numbers.values import EvalJob
from scanproof.numbers.verdict.answers import Samples, TaskSamples
from scanproof.numbers.verdict.measurement import Measurement
from scanproof.printable import LONGEST, make_printable
from scanproof.record import Evaluation

HOOK = "pytest_scanproof_evaluate"
ALLOWS = "--scanproof-reuse allows it"
CLOCKS = timedelta(minutes=1)
"""By how much the clock of another machine may be ahead of this one's."""


class TaskVersions:
    """Versions of tasks as the installed lm-eval defines them, each looked up once."""

    def __init__(self, cache: Path, imports: Imports) -> None:
        self._cache, self._imports = cache, imports
        self._known: dict[str, str | None] = {}

    @cached_property
    def lm_eval(self) -> str | None:
        """The version of lm-eval; None where it is not installed."""
        try:
            return metadata.version("lm-eval")
        except metadata.PackageNotFoundError:
            return None

    def find(self, task: str) -> str | None:
        """The version of a task; None where its definition names none."""
        if task not in self._known:
            index = self._imports.task_index(self._cache)
            place = index.files.get(task) if index is not None else None
            config = task_files.read_definition(index.root / place)[0] if index is not None and place else {}
            about = config.get("metadata")
            version = about.get("version") if isinstance(about, dict) else None
            self._known[task] = None if version is None else str(version)
        return self._known[task]


def read_result(returned: object) -> Evaluation:
    """What a hook returned, if every field of it is what its type says, and what is read of its environment, too.

    Raises:
        EvaluationError: it is no evaluation; the message names the first field that is wrong.
    """
    if not isinstance(returned, Evaluation):
        raise refusal([f"it is a {type(returned).__name__}, not an Evaluation"])
    try:
        evaluation = TypeAdapter(Evaluation).validate_python(_plain(returned))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise refusal([f"{where}: {first['msg']}, not {first['input']!r:.100}"]) from None
    if problems := list(_odd_environment(evaluation.environment)):
        raise refusal(problems)
    return evaluation


def mark_reused(evaluation: Evaluation, settings: Settings) -> Evaluation:
    """The evaluation, as reused where it says of itself that an earlier session measured it.

    A file of an earlier session says `reused: false`, as it was true then.
    """
    return replace(evaluation, reused=True) if _is_earlier(evaluation, settings) else evaluation


def require_own(
    evaluation: Evaluation, job: EvalJob, tasks: Collection[str], settings: Settings, samples: Samples | HistoryError,
    versions: TaskVersions, *, with_tokens: bool = False,
) -> None:  # fmt: skip
    """Raise EvaluationError unless an evaluation belongs to a job and brings what its numbers are judged by.

    Args:
        evaluation: what was measured.
        job: what was asked for.
        tasks: the single tasks that the selected numbers of the job are made of.
        settings: how it was asked for.
        samples: the kept answers, or why they cannot be read.
        versions: those of the tasks in the lm-eval that is installed here.
        with_tokens: the baseline says which tokens a fixed text becomes, so that the evaluation has to say it, too.
    """
    problems = [
        *job_match.list_differences(evaluation, job),
        *_other_session(evaluation, settings),
        *_no_environment(evaluation),
    ]
    if with_tokens and read_probe_tokens(evaluation.environment) is None:
        problems.append("environment: probe_tokens: missing; they show another tokenizer or BOS than the baseline's")
    wanted = [task for task in sorted(tasks) if task not in evaluation.unmeasured]
    if isinstance(samples, HistoryError):
        problems.append(f"samples: {samples}")
    else:
        for task in wanted:
            problems += _other_answers(task, evaluation, samples.get((evaluation.job.name, task)), job)
    if not problems and evaluation.environment["packages"]["lm-eval"] == versions.lm_eval:
        problems += _other_versions(evaluation, wanted, versions)
    if problems:
        raise refusal(problems)


def refusal(problems: list[str]) -> EvaluationError:
    """The error for an evaluation that is not taken."""
    more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
    text = "; ".join([*problems[:5], *more])
    return EvaluationError("worker", make_printable(f"the evaluation of {HOOK} is refused: {text}", 3 * LONGEST))


def _plain(evaluation: Evaluation) -> dict[str, Any]:
    """The fields of an evaluation and of what is in it, as mappings; other objects stay as they are."""
    return {field.name: _inner(getattr(evaluation, field.name)) for field in fields(evaluation)}


def _inner(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return asdict(value)
    return tuple(map(_inner, value)) if isinstance(value, tuple | list) else value


def _other_session(evaluation: Evaluation, settings: Settings) -> Iterator[str]:
    """Under strict: what was measured before this session, or does not say that it was measured in it."""
    if not settings.fresh:
        return
    remedy = "this session measures everything itself: measure again, and say in which session and when that was"
    if evaluation.session != settings.session:
        said = "missing" if evaluation.session is None else repr(evaluation.session)
        yield f"session: {said}, not {settings.session!r}; {remedy}; {ALLOWS}"
    elif evaluation.measured is None:
        yield f"measured: missing; {remedy}; {ALLOWS}"
    elif _is_earlier(evaluation, settings):
        yield f"measured: {evaluation.measured!r}, before this session began; {remedy}; {ALLOWS}"
    elif (measured := _read_time(evaluation.measured)) is not None and measured > datetime.now(UTC) + CLOCKS:
        yield f"measured: {evaluation.measured!r}, which is still to come; {remedy}; {ALLOWS}"


def _is_earlier(evaluation: Evaluation, settings: Settings) -> bool:
    """Whether an evaluation says that it was measured in another session, or before this one began."""
    if evaluation.session not in (None, settings.session):
        return True
    if evaluation.measured is None or settings.began is None:
        return False
    measured = _read_time(evaluation.measured)
    return measured is None or measured < settings.began


def _read_time(text: str) -> datetime | None:
    """A time as ISO 8601 writes it, UTC where it does not say; None where it is none."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _odd_environment(environment: Mapping[str, Any]) -> Iterator[str]:
    """What cannot be read: it chooses the baseline, and the versions to compare with, so it is looked at first."""
    packages, gpus = environment.get("packages", {}), environment.get("gpus")
    if not isinstance(packages, dict):
        yield f"environment: packages: {packages!r:.100}, not a mapping of names to versions"
    if gpus is not None and not (isinstance(gpus, list | tuple) and all(isinstance(gpu, dict) for gpu in gpus)):
        yield f"environment: gpus: {gpus!r:.100}, not a list of mappings with a `name`"


def _no_environment(evaluation: Evaluation) -> Iterator[str]:
    if not evaluation.environment.get("packages", {}).get("lm-eval"):
        yield "environment: packages.lm-eval: missing; it says which harness asked the questions"


def _other_answers(task: str, evaluation: Evaluation, kept: TaskSamples | None, job: EvalJob) -> Iterator[str]:
    """What is missing or wrong in one task: its measurements, and the answers that they are made of."""
    measurements = [one for one in evaluation.measurements if one.task == task]
    if not measurements:
        # Each number that needs it says so by itself: `derive.DeriveError`.
        return
    if kept is None or not kept.doc_ids:
        yield f"samples: {task}.jsonl: missing; it holds a line per document"
        return
    if kept.doc_ids != tuple(range(len(kept.doc_ids))):
        yield f"samples: {task}.jsonl: doc_id: not every document from 0 to {len(kept.doc_ids) - 1} once"
    if kept.questions_hash is None:
        yield f"samples: {task}.jsonl: question_hash: missing"
    for measurement in measurements:
        yield from _other_measurement(measurement, kept, job)


def _other_versions(evaluation: Evaluation, tasks: Collection[str], versions: TaskVersions) -> Iterator[str]:
    for measurement in evaluation.measurements:
        if measurement.task in tasks:
            defined = versions.find(measurement.task)
            if defined is not None and measurement.task_version != defined:
                yield (
                    f"{measurement.task}/{measurement.metric}: task_version: {measurement.task_version}, but "
                    f"lm-eval {versions.lm_eval} has version {defined}"
                )


def _other_measurement(measurement: Measurement, kept: TaskSamples, job: EvalJob) -> Iterator[str]:
    name = f"{measurement.task}/{measurement.metric}"
    if measurement.n_samples != len(kept.doc_ids):
        yield f"{name}: n_samples: {measurement.n_samples}, but {len(kept.doc_ids)} documents have answers"
    if job.limit is not None and measurement.n_samples > job.limit:
        yield f"{name}: n_samples: {measurement.n_samples}, but the limit is {job.limit}"
    if measurement.num_fewshot != job.num_fewshot:
        yield f"{name}: num_fewshot: {measurement.num_fewshot}, asked for was {job.num_fewshot}"
    if measurement.task_version in (None, "", "None"):
        yield f"{name}: task_version: missing"
    if measurement.prompts_hash != kept.prompts_hash:
        yield f"{name}: prompts_hash: not that of the prompts of {measurement.task}.jsonl"
