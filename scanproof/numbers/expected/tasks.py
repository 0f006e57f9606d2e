"""The lm-eval tasks and groups that numbers are published for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from scanproof.numbers.expected.messages import suggest
from scanproof.numbers.expected.problems import ExpectedError, FileProblem
from scanproof.numbers.expected.schema import GroupForm, TaskForm, TasksForm
from scanproof.numbers.expected.validation import read_form
from scanproof.numbers.expected.yaml_lines import YamlFile

FILE_NAME = "tasks.yaml"
DEEPEST = 5
"""Most levels of groups in groups; lm-eval's own have two."""
AVERAGE = "average"
"""Task name of a number that is the plain mean of its parts.  It is not a task of lm-eval."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a document of a task costs without examples in the prompt."""

    tokens: int
    """Tokens of a forward pass, on average."""
    longest: int
    """Tokens of the longest forward pass."""
    passes: float
    """Forward passes per document."""


@dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """One lm-eval task, or a group of them."""

    name: str
    documents: int | None
    """Documents scored; of a group, those of all its tasks."""
    metrics: tuple[str, ...]
    choices: int | None
    """Usual number of answers to choose from; None when there are no answers to choose from."""
    dataset: str
    """Hub id of the data."""
    config: str | None
    members: tuple[str, ...] = ()
    """Direct members of a group, by lm-eval's names; empty for a task."""
    tasks: tuple[str, ...] = ()
    """All tasks of a group, with those of its member groups; empty for a task."""
    cost: Cost | None = None
    """None for a group, and where it is not known."""
    binary: bool = True
    """Each document is right or wrong; False: it scores between 0 and 1."""


def load_tasks(path: Path) -> dict[str, TaskInfo]:
    """Read the tasks and groups in `path`, by name; raises ExpectedError with every problem of the file at once."""
    file = read_form(path, TasksForm)
    form = file.form
    problems = file.problems or (*_check_scores(form, file.yaml), *_check_groups(form, file.yaml))
    if problems:
        raise ExpectedError(problems)
    tasks = {name: _task(name, task) for name, task in form.tasks.items()}
    leaves = _leaves_of_groups(form)
    groups = {name: _group(name, group, leaves[name], tasks) for name, group in form.groups.items()}
    return {**tasks, **groups}


def _task(name: str, task: TaskForm) -> TaskInfo:
    return TaskInfo(
        name=name,
        documents=task.documents,
        metrics=tuple(task.metrics),
        choices=task.choices,
        dataset=task.dataset,
        config=task.config,
        cost=None if task.cost is None else Cost(**task.cost.model_dump()),
        binary=task.binary,
    )


def _group(name: str, group: GroupForm, leaves: tuple[str, ...], tasks: Mapping[str, TaskInfo]) -> TaskInfo:
    infos = [tasks[leaf] for leaf in leaves]
    choices = {info.choices for info in infos}
    return TaskInfo(
        name=name,
        documents=sum(info.documents or 0 for info in infos),
        metrics=tuple(group.metrics),
        choices=choices.pop() if len(choices) == 1 else None,
        dataset=infos[0].dataset,
        config=None,
        members=tuple(group.members),
        tasks=leaves,
        binary=all(info.binary for info in infos),
    )


def _check_scores(form: TasksForm, file: YamlFile) -> Iterator[FileProblem]:
    """A task whose documents are right or wrong, said to score between: its numbers would be allowed far more."""
    for name, task in form.tasks.items():
        reasons = {
            "choices, one of which is chosen": task.choices is not None,
            "acc_norm, which is of the answer that is chosen": "acc_norm" in task.metrics,
            "a perplexity, whose acc is whether the last word is found": "perplexity" in task.metrics,
        }
        if not task.binary and (because := [reason for reason, holds in reasons.items() if holds]):
            message = f"is false, but {name} has {because[0]}: a document is right or wrong; remove the key"
            yield file.problem(("tasks", name, "binary"), message)


def _check_groups(form: TasksForm, file: YamlFile) -> Iterator[FileProblem]:
    """Problems of the groups; those of how deep they are and what they count only where the others are mended."""
    sound = True
    for name, group in form.groups.items():
        for problem in _check_group(name, group, form, file):
            sound = False
            yield problem
    if sound:
        yield from _check_nesting(form, file)


def _check_group(name: str, group: GroupForm, form: TasksForm, file: YamlFile) -> Iterator[FileProblem]:
    if name in form.tasks or name == AVERAGE:
        yield file.problem(("groups", name), "is the name of a task as well; rename or remove one of them")
    for position, member in enumerate(group.members):
        place = ("groups", name, "members", position)
        if member not in form.tasks and member not in form.groups:
            known = [*form.tasks, *form.groups]
            yield file.problem(place, f"{member!r} is neither a task nor a group{suggest(member, known)}")
        elif member == name:
            yield file.problem(place, f"{member!r} contains {name!r} itself; remove one of the two")
        elif member in group.members[:position]:
            yield file.problem(place, f"{member!r} is named twice, and would be counted twice; remove one of them")


def _check_nesting(form: TasksForm, file: YamlFile) -> Iterator[FileProblem]:
    """Groups that contain themselves, are too deep, or reach a task in two ways."""
    try:
        order = _inner_first(form)
    except CycleError as error:
        member, name = error.args[1][:2]
        place = ("groups", name, "members", form.groups[name].members.index(member))
        yield file.problem(place, f"{member!r} contains {name!r} itself; remove one of the two")
        return
    depths: dict[str, int] = {}
    for name in order:
        members = form.groups[name].members
        depths[name] = 1 + max(depths.get(member, 0) for member in members)
        if depths[name] > DEEPEST:
            message = f"contains groups in groups, {depths[name]} deep; {DEEPEST} at most"
            yield file.problem(("groups", name), message)
            return
    leaves = _leaves_of_groups(form)
    for name in order:
        members = form.groups[name].members
        counted: set[str] = set()
        for position, member in enumerate(members):
            below = leaves.get(member, (member,))
            if twice := counted.intersection(below):
                message = f"{member!r} contains {min(twice)}, which a member before it contains as well; it would be "
                yield file.problem(("groups", name, "members", position), f"{message}counted twice")
                return
            counted.update(below)


def _inner_first(form: TasksForm) -> list[str]:
    """The groups, each after those in it; raises graphlib.CycleError."""
    inner = {name: set(group.members) & form.groups.keys() for name, group in form.groups.items()}
    return list(TopologicalSorter(inner).static_order())


def _leaves_of_groups(form: TasksForm) -> dict[str, tuple[str, ...]]:
    """Group -> its tasks and those of its groups, each once."""
    leaves: dict[str, tuple[str, ...]] = {}
    for name in _inner_first(form):
        below = (leaf for member in form.groups[name].members for leaf in leaves.get(member, (member,)))
        leaves[name] = tuple(dict.fromkeys(below))
    return leaves
