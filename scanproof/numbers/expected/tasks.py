"""The lm-eval tasks and groups that numbers are published for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from scanproof.numbers.expected.messages import suggest
from scanproof.numbers.expected.problems import ExpectedError, FileProblem
from scanproof.numbers.expected.schema import GroupForm, TaskForm, TasksForm
from scanproof.numbers.expected.validation import read_form
from scanproof.numbers.expected.yaml_lines import YamlFile

FILE_NAME = "tasks.yaml"
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
    problems = file.problems or tuple(_check_groups(form, file.yaml))
    if problems:
        raise ExpectedError(problems)
    tasks = {name: _task(name, task) for name, task in form.tasks.items()}
    groups = {name: _group(name, group, form, tasks) for name, group in form.groups.items()}
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


def _group(name: str, group: GroupForm, form: TasksForm, tasks: Mapping[str, TaskInfo]) -> TaskInfo:
    leaves = tuple(_leaves(name, form))
    infos = [tasks[leaf] for leaf in leaves]
    choices = {info.choices for info in infos}
    return TaskInfo(
        name=name,
        documents=sum(form.tasks[leaf].documents for leaf in leaves),
        metrics=tuple(group.metrics),
        choices=choices.pop() if len(choices) == 1 else None,
        dataset=infos[0].dataset,
        config=None,
        members=tuple(group.members),
        tasks=leaves,
        binary=all(info.binary for info in infos),
    )


def _leaves(name: str, form: TasksForm) -> Iterator[str]:
    group = form.groups.get(name)
    if group is None:
        yield name
        return
    for member in group.members:
        yield from _leaves(member, form)


def _check_groups(form: TasksForm, file: YamlFile) -> Iterator[FileProblem]:
    known = [*form.tasks, *form.groups]
    for name, group in form.groups.items():
        if name in form.tasks or name == AVERAGE:
            yield file.problem(("groups", name), "is the name of a task as well; rename or remove one of them")
        for position, member in enumerate(group.members):
            place = ("groups", name, "members", position)
            if member not in form.tasks and member not in form.groups:
                yield file.problem(place, f"{member!r} is neither a task nor a group{suggest(member, known)}")
            elif _contains(member, name, form, frozenset()):
                yield file.problem(place, f"{member!r} contains {name!r} itself; remove one of the two")


def _contains(name: str, wanted: str, form: TasksForm, above: frozenset[str]) -> bool:
    group = form.groups.get(name)
    if group is None or name in above:
        return False
    inside = above | {name}
    return name == wanted or any(_contains(member, wanted, form, inside) for member in group.members)
