from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from scanproof.errors import EvaluationError
from scanproof.evaluation import task_files
from scanproof.evaluation.imported import Imports

TWELVE = (
    "arc_challenge", "arc_easy", "boolq", "hellaswag", "lambada_openai", "mmlu", "openbookqa", "piqa",
    "pubmedqa", "race", "truthfulqa_mc2", "winogrande",
)  # fmt: skip

ASK_LM_EVAL = """
import json, logging, sys
from lm_eval.tasks import TaskManager
logging.disable(logging.ERROR)
narrow, full = TaskManager(include_path=sys.argv[2:], include_defaults=False), TaskManager()
def told(manager, name):
    entry = manager.task_index[name]
    return str(entry.yaml_path), sorted(entry.tags), json.dumps(entry.cfg, sort_keys=True, default=str)
names = json.loads(sys.argv[1])
print(json.dumps({name: told(narrow, name) == told(full, name) for name in names}))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def index(cache: Path) -> task_files.TaskFiles:
    package = Imports().folder("lm_eval")
    assert package is not None
    return task_files.load_index(package / "tasks", cache)


def write(root: Path, files: dict[str, str]) -> task_files.TaskFiles:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return task_files.build_index(root)


def test_lm_eval_reads_the_same_definitions_from_the_folders_as_from_its_full_index(
    index: task_files.TaskFiles,
) -> None:
    chosen = task_files.select(index, TWELVE)
    names = [*chosen.leaves, *chosen.groups, "mmlu_stem_tasks"]
    done = subprocess.run(
        [sys.executable, "-c", ASK_LM_EVAL, json.dumps(names), *map(str, chosen.folders)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    same = json.loads(done.stdout.splitlines()[-1])
    assert len(same) == 11 + 57 + 5 + 1
    assert [name for name, equal in same.items() if not equal] == []


def test_the_twelve_tasks_and_their_data(index: task_files.TaskFiles) -> None:
    chosen = task_files.select(index, TWELVE)
    assert chosen.roots == TWELVE
    assert len(chosen.leaves) == 11 + 57
    assert chosen.opaque == ()
    assert chosen.datasets == (
        "EleutherAI/lambada_openai", "EleutherAI/race", "Rowan/hellaswag", "allenai/ai2_arc",
        "allenai/openbookqa", "allenai/winogrande", "aps/super_glue", "baber/piqa", "bigbio/pubmed_qa", "cais/mmlu",
        "truthfulqa/truthful_qa",
    )  # fmt: skip


def test_members_of_a_requested_group_are_not_requested_again(index: task_files.TaskFiles) -> None:
    chosen = task_files.select(index, ["mmlu_anatomy", "mmlu_stem", "mmlu", "piqa"])
    assert chosen.roots == ("mmlu", "piqa")


def test_unknown_name_offers_near_ones(index: task_files.TaskFiles) -> None:
    with pytest.raises(task_files.UnknownTask, match="hellaswag"):
        task_files.select(index, ["helaswag"])


def test_definitions_that_cannot_be_read_are_said_with_their_place(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"task files cannot be read: .*/nowhere/tasks: No such file"):
        task_files.load_index(tmp_path / "nowhere" / "tasks", tmp_path / "cache")
    index = write(tmp_path, {"one.yaml": "task: one\nchoices: [a,", "two.yaml": "task: two\ninclude: three.yaml\n"})
    for name, place in (("one", "one.yaml"), ("two", "three.yaml")):
        with pytest.raises(EvaluationError, match=f"task files cannot be read: .*/{place}: "):
            task_files.select(index, [name])


def test_index_is_kept_until_a_definition_changes(tmp_path: Path) -> None:
    root, cache = tmp_path / "tasks", tmp_path / "cache"
    write(root, {"a/a.yaml": "task: one\ndataset_path: x/y\n"})
    assert task_files.load_index(root, cache).files == {"one": "a/a.yaml"}
    (kept,) = cache.iterdir()
    assert task_files.load_index(root, cache).files == {"one": "a/a.yaml"}
    assert list(cache.iterdir()) == [kept]
    (root / "a" / "a.yaml").write_text("task: other\ndataset_path: x/y\n")
    assert task_files.load_index(root, cache).files == {"other": "a/a.yaml"}


def test_damaged_cache_is_built_again(tmp_path: Path) -> None:
    root, cache = tmp_path / "tasks", tmp_path / "cache"
    write(root, {"a.yaml": "task: one\n"})
    task_files.load_index(root, cache)
    kept = next(cache.iterdir())
    sound = kept.read_text()
    for damaged in (
        "{",
        "[]",
        "null",
        "3",
        '{"files": {}, "tags": {}}',
        "[" * 100_000,
        sound.replace("a.yaml", "b.yaml"),
    ):
        assert damaged != sound
        kept.write_text(damaged)
        assert task_files.load_index(root, cache).files == {"one": "a.yaml"}
        assert kept.read_text() == sound
    places: tuple[Callable[[], None], ...] = (
        kept.mkdir, partial(os.mkfifo, kept), partial(kept.symlink_to, "/dev/zero"),
    )  # fmt: skip
    for place in places:
        kept.unlink()
        place()
        assert task_files.load_index(root, cache).files == {"one": "a.yaml"}
        assert kept.read_text() == sound


def test_tags_are_inherited_through_includes_and_join_folders(tmp_path: Path) -> None:
    index = write(
        tmp_path,
        {
            "g/group.yaml": "group: all\ntask:\n  - both\n",
            "a/_base": "tag: both\ndataset_path: x/base\n",
            "a/one.yaml": "include: _base\ntask: one\n",
            "b/two.yaml": '"task": "two"\ntag:\n  - both  # comment\n  - other\ndataset_path: x/two\n',
        },
    )
    assert index.tags == {"both": ("one", "two"), "other": ("two",)}
    chosen = task_files.select(index, ["all"])
    assert chosen.leaves == ("one", "two")
    assert chosen.datasets == ("x/base", "x/two")
    assert chosen.folders == (tmp_path / "a", tmp_path / "b", tmp_path / "g")


def test_functions_in_definitions_are_not_run(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("task: one\ndoc_to_text: !function utils.text\n")
    assert task_files.read_definition(path)[0]["doc_to_text"] == "!function utils.text"


@pytest.mark.parametrize(
    "text",
    ["task: one\nclass: !function t.C\n", "task: one\ndataset_path: json\n", "task: one\n"],
    ids=["class", "builder", "none"],
)
def test_data_that_a_definition_does_not_name_is_said_to_be_opaque(tmp_path: Path, text: str) -> None:
    chosen = task_files.select(write(tmp_path, {"a.yaml": text}), ["one"])
    assert chosen.opaque == ("one",)
