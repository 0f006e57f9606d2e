"""With the caches, lm-eval gives the same results: shown on tasks of the embedded stand-ins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scanproof.evaluation import task_files
from scanproof.evaluation.imported import Imports
from scanproof.plugin.options import EMBEDDED_MIRROR

ROOT = Path(__file__).resolve().parents[2]
SUBJECTS = ("mmlu_anatomy", "mmlu_astronomy")
TASKS = (*SUBJECTS, "arc_easy", "arc_challenge", "hellaswag", "truthfulqa_mc2", "winogrande")
DOCUMENTS, SHOTS = 4, 2

PROGRAM = """
import json, logging, sys
import jinja2, lm_eval.utils
from lm_eval.api.registry import get_model
from huggingface_hub import DatasetCard
from scanproof.evaluation.worker import lm_eval_caches as caches
from scanproof.evaluation.worker import run as worker

folders, tasks, documents, shots = json.loads(sys.argv[1])
counts = {"templates": 0, "cards": 0}
compile_template, load_card = jinja2.Environment.compile, DatasetCard.load.__func__

def compiled(*arguments, **options):
    counts["templates"] += 1
    return compile_template(*arguments, **options)

def loaded(*arguments, **options):
    counts["cards"] += 1
    return load_card(*arguments, **options)

jinja2.Environment.compile = compiled
DatasetCard.load = classmethod(loaded)

def run():
    counts.update(templates=0, cards=0)
    manager, found, _ = worker.load_tasks({"members": {task: [task] for task in tasks}, "task_folders": folders})
    job = {"num_fewshot": shots, "batch_size": 1, "device": "cpu", "limit": documents, "seed": 1234}
    results = worker.evaluate_tasks(get_model("dummy")(), job, found, manager, 10)
    seen = {
        task: [
            [sample["doc"], sample["arguments"], str(sample["target"]), sample["doc_hash"], sample["prompt_hash"]]
            for sample in samples
        ]
        for task, samples in results["samples"].items()
    }
    return {"seen": seen, "counts": dict(counts), "environment": results["pretty_env_info"]}

install_caches = caches.install_caches
caches.install_caches = lambda: None
every_time = run()
caches.install_caches = install_caches
once = run()
with_an_error = None
try:
    lm_eval.utils.apply_template("{{nothing}}", {"something": 1})
except jinja2.UndefinedError as error:
    with_an_error = str(error)
print()
print(json.dumps({"every_time": every_time, "once": once, "error": with_an_error}, default=str))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of the same tasks in one process, first without and then with the caches."""
    package = Imports().folder("lm_eval")
    assert package is not None
    selection = task_files.select(task_files.load_index(package / "tasks", tmp_path_factory.mktemp("index")), TASKS)
    given = json.dumps([[str(folder) for folder in selection.folders], TASKS, DOCUMENTS, SHOTS])
    home = tmp_path_factory.mktemp("home")
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(home / "hub"),
        "HF_DATASETS_CACHE": str(home / "data"),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, given],
        cwd=EMBEDDED_MIRROR, env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return content


def test_every_document_prompt_choice_and_target_is_the_same(runs: dict[str, Any]) -> None:
    assert runs["once"]["seen"] == runs["every_time"]["seen"]
    assert {task: len(samples) for task, samples in runs["once"]["seen"].items()} == dict.fromkeys(TASKS, DOCUMENTS)


def test_subjects_of_one_repository_keep_their_own_questions(runs: dict[str, Any]) -> None:
    subjects = [{sample[0]["subject"] for sample in runs["once"]["seen"][task]} for task in SUBJECTS]
    assert subjects == [{"anatomy"}, {"astronomy"}]


def test_a_template_is_compiled_once_and_a_repository_read_once(runs: dict[str, Any]) -> None:
    before, after = runs["every_time"]["counts"], runs["once"]["counts"]
    assert after["cards"] == before["cards"] - 2  # MMLU's two subjects, and ARC's two halves, share a repository.
    assert before["templates"] > DOCUMENTS * len(TASKS)
    # A task has templates for question, choices and target, and the same for its few-shot examples.
    assert after["templates"] <= 6 * len(TASKS)


def test_the_list_of_packages_is_not_asked_of_pip(runs: dict[str, Any]) -> None:
    assert "pip" in runs["every_time"]["environment"]
    assert runs["once"]["environment"] == "see environment.json"


def test_a_template_that_names_a_missing_field_is_still_an_error(runs: dict[str, Any]) -> None:
    assert runs["error"] == "'nothing' is undefined"


WITHOUT = """
import json, sys
import datasets.load, lm_eval.utils
from scanproof.evaluation.worker import lm_eval_caches

missing = sys.argv[1].split()
for module, name in ((lm_eval.utils, "env"), (datasets.load, "dataset_module_factory")):
    if name in missing:
        delattr(module, name)
lm_eval_caches.install_caches()
lm_eval_caches.install_caches()
template = getattr(getattr(lm_eval.utils, "env", None), "from_string", None)
factory = getattr(datasets.load, "dataset_module_factory", None)
print(json.dumps({"env": hasattr(template, "cache_info"), "dataset_module_factory": type(factory).__name__}))
"""


@pytest.mark.parametrize(
    ("missing", "installed"),
    [
        ("", {"env": True, "dataset_module_factory": "CachedModuleFactory"}),
        ("env", {"env": False, "dataset_module_factory": "CachedModuleFactory"}),
        ("dataset_module_factory", {"env": True, "dataset_module_factory": "NoneType"}),
        ("env dataset_module_factory", {"env": False, "dataset_module_factory": "NoneType"}),
    ],
)
def test_what_only_saves_time_is_left_out_where_a_release_lacks_it(missing: str, installed: dict[str, object]) -> None:
    """Both are internals, which another release may name otherwise: no number is lost for want of a cache."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, missing], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == installed
