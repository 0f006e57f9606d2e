"""Turn the checked evaluation files of a document into PublishedValues."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from scanproof.numbers.expected.schema import DocumentForm, EvaluationForm, ValueForm
from scanproof.numbers.expected.tasks import AVERAGE, TaskInfo
from scanproof.numbers.expected.validation import FormFile, is_sound
from scanproof.numbers.values import EvalJob, KnownDiscrepancy, Part, PublishedValue, Size, Widening, model_slug

EvaluationFile = FormFile[EvaluationForm]
ShotsAndBatch = tuple[int, int]
"""Examples in the prompt and batch size of a job: what one value of a file can set in its own way."""
Tasks = Mapping[str, TaskInfo]


def published_values(
    files: Iterable[EvaluationFile], folder: Path, document: DocumentForm, tasks: Tasks
) -> Iterator[PublishedValue]:
    """The values of one document, those of one job together.  Its files must be free of problems."""
    by_job: dict[EvalJob, list[tuple[EvaluationFile, int]]] = {}
    for file in files:
        jobs = file_jobs(file.form)
        for position, value in enumerate(file.form.values):
            by_job.setdefault(jobs[_settings(file.form, value)], []).append((file, position))
    pooled = {name: tuple(_part(task, info.metrics[0], tasks) for task in info.tasks) for name, info in tasks.items()}
    for job, places in by_job.items():
        needed = {name for file, position in places for name in _task_names(file.form.values[position])}
        job = replace(job, suite=document.suite, tasks=_without_members(needed, tasks))
        for file, position in places:
            yield _published_value(file, position, folder, job, document, tasks, pooled)


def file_jobs(form: EvaluationForm) -> dict[ShotsAndBatch, EvalJob]:
    """The jobs of one file, as far as they are sound; their tasks are still empty."""
    if not is_sound(form, "document", "hub_id", "variant", "job"):
        return {}
    sound = (value for value in form.values if is_sound(value, "num_fewshot", "batch_size"))
    return {settings: _job(form, *settings) for settings in dict.fromkeys(_settings(form, value) for value in sound)}


def _settings(form: EvaluationForm, value: ValueForm) -> ShotsAndBatch:
    shots = form.job.num_fewshot if value.num_fewshot is None else value.num_fewshot
    return shots, value.batch_size or form.job.batch_size


def _job(form: EvaluationForm, num_fewshot: int, batch_size: int) -> EvalJob:
    job = form.job
    batch_suffix = "" if batch_size == job.batch_size else f"-batch{batch_size}"
    return EvalJob(
        name=f"{form.document}-{model_slug(form.hub_id, form.variant)}-{num_fewshot}shot{batch_suffix}",
        pretrained=form.hub_id,
        model_args=tuple(sorted(job.model_args.items())),
        tasks=(),
        num_fewshot=num_fewshot,
        batch_size=batch_size,
        size=None if job.size is None else Size(**job.size.model_dump()),
        kernels=tuple(job.kernels),
        **job.model_dump(exclude={"model_args", "num_fewshot", "batch_size", "size", "kernels"}),
    )


def _task_names(value: ValueForm) -> list[str]:
    return [part.task for part in value.parts] if value.task == AVERAGE else [value.task]


def _without_members(names: set[str], tasks: Tasks) -> tuple[str, ...]:
    """The names without those that a group among them contains."""
    members = {member for name in names for member in _members(name, tasks)}
    return tuple(sorted(names - members))


def _members(name: str, tasks: Tasks) -> Iterator[str]:
    for member in tasks[name].members:
        yield member
        yield from _members(member, tasks)


def _part(task: str, metric: str, tasks: Tasks) -> Part:
    return Part(task=task, metric=metric, documents=tasks[task].documents, binary=tasks[task].binary)


def _published_value(
    file: EvaluationFile,
    position: int,
    folder: Path,
    job: EvalJob,
    document: DocumentForm,
    tasks: Tasks,
    pooled: Mapping[str, tuple[Part, ...]],
) -> PublishedValue:
    form, value = file.form, file.form.values[position]
    task = tasks.get(value.task)
    shots = _printed(value.num_fewshot_printed, form.num_fewshot_printed, value)
    batch = _printed(value.batch_size_printed, form.batch_size_printed, value)
    known = value.known_discrepancy
    printed = {"num_fewshot": shots == job.num_fewshot, "batch_size": batch == job.batch_size}
    return PublishedValue(
        document=form.document,
        line=value.line,
        file=file.yaml.path.relative_to(folder).as_posix(),
        file_line=file.yaml.line(("values", position)),
        model=form.model,
        hub_id=form.hub_id,
        job=job,
        task=value.task,
        metric=value.metric,
        origin=value.origin,
        printed=value.printed,
        unit=value.unit,
        stderr=value.stderr,
        num_fewshot_printed=shots,
        batch_size_printed=batch,
        documents=value.documents or (task.documents if task else None),
        binary=task.binary if task else True,
        parts=tuple(_part(part.task, part.metric, tasks) for part in value.parts) or pooled.get(value.task, ()),
        pooled=task is not None and bool(task.members),
        harness="same" if value.origin == "recorded" else document.harness.relation,
        assumed=_assumptions((document.assumed, form.assumed, value.assumed), value, printed),
        known_discrepancy=None if known is None else KnownDiscrepancy(**known.model_dump()),
        not_comparable=value.not_comparable or form.not_comparable or _mixed_shots(form, value),
        widened=None if value.widened is None else Widening(**value.widened.model_dump()),
        suffix=value.suffix or "",
        variant=form.variant or "",
    )


def _printed(own: int | None, of_file: int | None, value: ValueForm) -> int | None:
    return of_file if own is None and value.origin != "paper" else own


def _assumptions(
    levels: Iterable[Mapping[str, str]], value: ValueForm, printed: Mapping[str, bool]
) -> tuple[tuple[str, str], ...]:
    """(field, reason) by field: the last level decides, and in each level the entry for the task, then the origin."""
    reasons: dict[str, str] = {}
    for level in levels:
        for scope in ("", value.origin, value.task):
            for key, reason in level.items():
                field, _, narrowed_to = key.partition(":")
                if narrowed_to == scope:
                    reasons[field] = reason
    return tuple(sorted((field, reason) for field, reason in reasons.items() if not printed.get(field)))


def _mixed_shots(form: EvaluationForm, value: ValueForm) -> str | None:
    """Why an average cannot be measured: the file evaluates one of its parts with other shots."""
    shots, _ = _settings(form, value)
    for part in value.parts:
        for other in form.values:
            same = (other.task, other.metric, other.origin) == (part.task, part.metric, value.origin)
            other_shots, _ = _settings(form, other)
            if same and other_shots != shots:
                return f"{part.task} is evaluated with {other_shots} shots, the average with {shots}"
    return None
