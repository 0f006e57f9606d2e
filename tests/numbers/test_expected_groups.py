"""Groups of tasks in `tasks.yaml`: what they may contain, and that each task counts once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scanproof.numbers.expected.reader import ExpectedError
from scanproof.numbers.expected.tasks import load_tasks


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ("[one, tow]", "tasks.yaml:6: groups.all.members.1: 'tow' is neither a task nor a group"),
        ("[one, all]", "tasks.yaml:6: groups.all.members.1: 'all' contains 'all' itself"),
        ("[one, one]", "tasks.yaml:6: groups.all.members.1: 'one' is named twice, and would be counted twice"),
    ],
)
def test_groups(tmp_path: Path, members: str, said: str) -> None:
    path = tmp_path / "tasks.yaml"
    path.write_text(
        "tasks:\n  one: {documents: 1, metrics: [acc], dataset: a/b}\n"
        f"groups:\n  all:\n    metrics: [acc]\n    members: {members}\n"
    )
    with pytest.raises(ExpectedError, match=re.escape(said)):
        load_tasks(path)


def write_groups(tmp_path: Path, groups: dict[str, list[str]]) -> Path:
    """A file with the task `one` and these groups."""
    path = tmp_path / "tasks.yaml"
    lines = [f"  {name}: {{metrics: [acc], members: [{', '.join(members)}]}}" for name, members in groups.items()]
    tasks = "tasks:\n  one: {documents: 1, metrics: [acc], dataset: a/b}\ngroups:\n"
    path.write_text(tasks + "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (
            {"a": ["b"], "b": ["c"], "c": ["a"]},
            r"tasks.yaml:\d: groups.(a|b|c).members.0: '(a|b|c)' contains '(a|b|c)' itself",
        ),
        (
            {"a": ["b", "c"], "b": ["one"], "c": ["one"]},
            r"tasks.yaml:4: groups.a.members.1: 'c' contains one, which a member before it contains as well; "
            "it would be counted twice",
        ),
        ({"a": ["one", "b"], "b": ["one"]}, r"groups.a.members.1: 'b' contains one, which a member before it"),
        (
            {**{f"g{i}": [f"g{i + 1}", f"g{i + 1}"] for i in range(20)}, "g20": ["one"]},
            r"groups.g0.members.1: 'g1' is named twice",
        ),
        ({**{f"g{i}": [f"g{i + 1}"] for i in range(2000)}, "g2000": ["one"]}, r"6 deep; 5 at most"),
    ],
    ids=["circle", "two ways", "task and group", "doubling", "chain"],
)
def test_groups_that_would_not_end_or_count_twice(tmp_path: Path, groups: dict[str, list[str]], said: str) -> None:
    with pytest.raises(ExpectedError, match=said):
        load_tasks(write_groups(tmp_path, groups))


def test_a_group_of_groups_counts_every_task_once(tmp_path: Path) -> None:
    tasks = load_tasks(write_groups(tmp_path, {"a": ["b"], "b": ["c"], "c": ["one"]}))
    assert [tasks[name].tasks for name in "abc"] == [("one",)] * 3
    assert tasks["a"].documents == 1
