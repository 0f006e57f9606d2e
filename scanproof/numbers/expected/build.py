"""Turn the checked evaluation files of a document into PublishedValues, those of one job together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property

from scanproof.numbers.expected.problems import Problem
from scanproof.numbers.expected.schema import EvaluationForm, ValueForm
from scanproof.numbers.expected.tasks import AVERAGE, TaskInfo
from scanproof.numbers.expected.validation import below, unsound
from scanproof.numbers.expected.yaml_lines import Place, YamlFile
from scanproof.numbers.values import (
    EvalJob,
    HarnessRelation,
    Part,
    PublishedValue,
    Size,
    Suite,
    Widening,
    model_slug,
    value_id,
)

Assumptions = Mapping[str, str]
_NONE: frozenset[str] = frozenset()
_ID_KEYS = ("task", "metric", "origin", "suffix")


@dataclass(frozen=True)
class Source:
    """One evaluation file."""

    name: str
    """Relative to the folder of expected values, with forward slashes."""
    file: YamlFile
    form: EvaluationForm
    """As far as it is sound."""
    places: tuple[Place, ...] = ()
    """Where it is not."""

    def has(self, *keys: str) -> bool:
        """Whether all of these top-level keys are sound."""
        return unsound(EvaluationForm, self.places).isdisjoint(keys)

    def unsound_keys(self, position: int) -> frozenset[str]:
        """The keys of one of the values that are not sound."""
        return self._unsound.get(position, _NONE)

    @cached_property
    def _unsound(self) -> dict[int | str, frozenset[str]]:
        inside = below(below(self.places).get("values", ()))
        return {position: unsound(ValueForm, places) for position, places in inside.items()}

    def line(self, position: int) -> int:
        """Line on which one of the values begins."""
        return self.file.item_lines["values"][position]

    def shots(self, value: ValueForm) -> int:
        """Examples in the prompt with which the value is measured."""
        return self.form.job.num_fewshot if value.num_fewshot is None else value.num_fewshot

    def jobs(self) -> Iterable[EvalJob]:
        """The jobs of all values that are sound so far, each once, their tasks still empty."""
        if not self.has("document", "hub_id", "job"):
            return ()
        sound = (value for position, value in enumerate(self.form.values) if not self.unsound_keys(position))
        # By identity: `_job` makes each once, and hashing one for each of 100,000 values takes seconds.
        return {id(job): job for job in map(self.job, sound)}.values()

    def job(self, value: ValueForm) -> EvalJob:
        """The job of a value, its tasks still empty."""
        return self._job(self.shots(value), value.batch_size or self.form.job.batch_size)

    def _job(self, num_fewshot: int, batch_size: int) -> EvalJob:
        known = self._jobs.get((num_fewshot, batch_size))
        if known is None:
            known = self._jobs[num_fewshot, batch_size] = _base_job(self.form, num_fewshot, batch_size)
        return known

    @cached_property
    def _jobs(self) -> dict[tuple[int, int], EvalJob]:
        return {}


@dataclass(frozen=True)
class Context:
    """What the values of a document take from elsewhere."""

    tasks: Mapping[str, TaskInfo]
    harness: HarnessRelation
    suite: Suite
    assumed: Assumptions

    @cached_property
    def parts(self) -> dict[str, tuple[Part, ...]]:
        """Group -> the tasks that its number is pooled from."""
        return {
            name: tuple(
                Part(task=task, metric=info.metrics[0], documents=self.tasks[task].documents) for task in info.tasks
            )
            for name, info in self.tasks.items()
        }


def published_values(sources: Collection[Source], context: Context) -> list[PublishedValue]:
    """The values of one document without problems, those of one job together."""
    jobs = _jobs(sources, context)
    grouped: dict[EvalJob, list[PublishedValue]] = {base: [] for base in jobs}
    for source in sources:
        assumed = _Assumed(context.assumed, source.form)
        for value, line in zip(source.form.values, source.file.item_lines["values"], strict=True):
            base = source.job(value)
            made = _value(source, value, line, jobs[base], context, assumed)
            grouped[base].append(made)
    return [value for values in grouped.values() for value in values]


def check_ids(sources: Iterable[Source]) -> Iterator[Problem]:
    """Values that would be the same test; those of files with other mistakes too."""
    first: dict[str, tuple[Source, int]] = {}
    for source in sources:
        if not source.has("hub_id"):
            continue
        for position, value in enumerate(source.form.values):
            if not source.unsound_keys(position).isdisjoint(_ID_KEYS):
                continue
            form = source.form
            name = value_id(form.hub_id, value.task, value.metric, value.origin, value.suffix, form.variant)
            other, where = first.setdefault(name, (source, position))
            if (other, where) != (source, position):
                yield _second(name, source.file, source.line(position), f"{other.name}:{other.line(where)}")


def _second(name: str, file: YamlFile, line: int, first: str) -> Problem:
    message = (
        f"is a second {name}, after {first}; remove one of them, or write suffix: and a word that tells them apart"
    )
    return Problem(str(file.path), line, "values", message)


def check_jobs(sources: Iterable[Source]) -> Iterator[Problem]:
    """Jobs of one document that cannot be told apart by their names."""
    named: dict[str, tuple[EvalJob, Source]] = {}
    known: set[EvalJob] = set()
    for source in sources:
        for job in source.jobs():
            first = named.setdefault(job.name, (job, source))
            if job not in known and first[0] != job:
                yield _clash(source, job, *first)
            known.add(job)


def _base_job(form: EvaluationForm, num_fewshot: int, batch_size: int) -> EvalJob:
    job = form.job
    other = "" if batch_size == job.batch_size else f"-batch{batch_size}"
    return EvalJob(
        name=f"{form.document}-{model_slug(form.hub_id, form.variant)}-{num_fewshot}shot{other}",
        model=job.model,
        pretrained=form.hub_id,
        revision=job.revision,
        model_args=tuple(sorted(job.model_args.items())),
        dtype=job.dtype,
        device=job.device,
        tasks=(),
        num_fewshot=num_fewshot,
        batch_size=batch_size,
        max_length=job.max_length,
        limit=job.limit,
        seed=job.seed,
        trust_remote_code=job.trust_remote_code,
        needs_remote_code=job.needs_remote_code,
        size=None if job.size is None else Size(**job.size.model_dump()),
        kernels=tuple(job.kernels),
    )


def _jobs(sources: Iterable[Source], context: Context) -> dict[EvalJob, EvalJob]:
    """Each job without its tasks -> the same with the tasks that all its values need."""
    needed: dict[EvalJob, set[str]] = {}
    for source in sources:
        for value in source.form.values:
            names = [part.task for part in value.parts] if value.task == AVERAGE else [value.task]
            needed.setdefault(source.job(value), set()).update(names)
    return {
        base: replace(base, suite=context.suite, tasks=_covering(names, context.tasks))
        for base, names in needed.items()
    }


def _clash(source: Source, base: EvalJob, other: EvalJob, first: Source) -> Problem:
    differing = [f.name for f in fields(EvalJob) if getattr(base, f.name) != getattr(other, f.name)]
    message = (
        f"gives a second job named {base.name}, with another {' and '.join(differing)} than {first.name}; "
        "let the two files agree, or give their values another num_fewshot or batch_size"
    )
    return source.file.problem(("job",), message)


def _covering(names: set[str], tasks: Mapping[str, TaskInfo]) -> tuple[str, ...]:
    """The names without those that a group among them already contains."""
    inside = {member for name in names for member in _inside(name, tasks)}
    return tuple(sorted(names - inside))


def _inside(name: str, tasks: Mapping[str, TaskInfo]) -> Iterator[str]:
    for member in tasks[name].members:
        yield member
        yield from _inside(member, tasks)


class _Assumed:
    """The assumptions that hold for the values of one file."""

    def __init__(self, document: Assumptions, form: EvaluationForm) -> None:
        self._levels = (document, form.assumed)
        self._known: dict[tuple[str, str, bool, bool], tuple[tuple[str, str], ...]] = {}

    def of(self, value: ValueForm, shots_printed: bool, batch_printed: bool) -> tuple[tuple[str, str], ...]:
        """(field, reason) by field, the narrowest entry of each."""
        if value.assumed:
            return self._collect((*self._levels, value.assumed), value, shots_printed, batch_printed)
        key = (value.task, value.origin, shots_printed, batch_printed)
        if key not in self._known:
            self._known[key] = self._collect(self._levels, value, shots_printed, batch_printed)
        return self._known[key]

    def _collect(
        self, levels: tuple[Assumptions, ...], value: ValueForm, shots_printed: bool, batch_printed: bool
    ) -> tuple[tuple[str, str], ...]:
        chosen: dict[str, str] = {}
        for level in levels:
            for wanted in ("", value.origin, value.task):
                for key, reason in level.items():
                    field, _, narrowed = key.partition(":")
                    if narrowed == wanted:
                        chosen[field] = reason
        if shots_printed:
            chosen.pop("num_fewshot", None)
        if batch_printed:
            chosen.pop("batch_size", None)
        return tuple(sorted(chosen.items()))


def _printed(value: int | None, file: int | None, origin: str) -> int | None:
    if value is not None:
        return value
    return None if origin == "paper" else file


def _value(
    source: Source, value: ValueForm, line: int, job: EvalJob, context: Context, assumed: _Assumed
) -> PublishedValue:
    form = source.form
    task = context.tasks.get(value.task)
    shots = _printed(value.num_fewshot_printed, form.num_fewshot_printed, value.origin)
    batch = _printed(value.batch_size_printed, form.batch_size_printed, value.origin)
    return PublishedValue(
        document=form.document,
        line=value.line,
        file=source.name,
        file_line=line,
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
        parts=_parts(value, context),
        pooled=task is not None and bool(task.members),
        harness="same" if value.origin == "recorded" else context.harness,
        assumed=assumed.of(value, shots == job.num_fewshot, batch == job.batch_size),
        known_discrepancy=value.known_discrepancy or form.known_discrepancy,
        not_comparable=value.not_comparable or form.not_comparable or _mixed_shots(source, value),
        widened=None if value.widened is None else Widening(by=value.widened.by, reason=value.widened.reason),
        suffix=value.suffix or "",
        variant=form.variant or "",
    )


def _parts(value: ValueForm, context: Context) -> tuple[Part, ...]:
    if not value.parts:
        return context.parts.get(value.task, ())
    return tuple(
        Part(task=part.task, metric=part.metric, documents=context.tasks[part.task].documents) for part in value.parts
    )


def _mixed_shots(source: Source, value: ValueForm) -> str | None:
    """Why an average cannot be measured: the file evaluates one of its parts with other shots."""
    shots = source.shots(value)
    for part in value.parts:
        for other in source.form.values:
            same = (other.task, other.metric, other.origin) == (part.task, part.metric, value.origin)
            if same and source.shots(other) != shots:
                return f"{part.task} is evaluated with {source.shots(other)} shots, the average with {shots}"
    return None
