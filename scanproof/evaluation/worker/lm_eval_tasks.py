"""Load lm-eval's tasks for a job, and evaluate them."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

from scanproof.evaluation.worker import lm_eval_caches

RANDOM_SEED = 0
"""Seed of Python's random module, the default of lm-eval; the other three generators use the job's seed."""


def load_tasks(request: Mapping[str, Any]) -> tuple[Any, list[Any], dict[str, Exception]]:
    """Load lm-eval's task objects for a request, from the folders that define them.

    Where that fails, the tasks are loaded one by one, so that one without data costs the others nothing.

    Returns:
        lm-eval's task manager, the groups and tasks to evaluate, and single task -> why it could not be loaded.

    Raises:
        Exception: none of the tasks can be loaded; it is the error of the first.
        RuntimeError: lm-eval finds other tasks in these folders than `scanproof.evaluation.task_files` found.
    """
    from lm_eval.api.group import Group
    from lm_eval.tasks import TaskManager

    lm_eval_caches.install_caches()
    manager = TaskManager(include_path=list(request["task_folders"]), include_defaults=False)
    members: Mapping[str, list[str]] = request["members"]
    broken: dict[str, Exception] = {}
    try:
        loaded = manager.load(list(members))
    except Exception:
        broken = find_broken_tasks(manager, list(members))
        loaded = manager.load([task for task in members if task not in broken])
    kept = [task for task in members if task not in broken]
    leaves, wanted = set(loaded["tasks"]), {name for task in kept for name in members[task]}
    if leaves != wanted:
        different = sorted(leaves ^ wanted)
        raise RuntimeError(f"lm-eval loads other tasks than scanproof found in its files: {', '.join(different)}")
    groups = loaded.get("groups", {})
    below = {task.task_name for group in groups.values() for task in group.get_all_tasks()}
    inner = {child.name for group in groups.values() for child in group if isinstance(child, Group)}
    roots = [group for name, group in groups.items() if name not in inner]
    tasks = [*roots, *(task for name, task in loaded["tasks"].items() if name not in below)]
    return manager, tasks, {name: error for task, error in broken.items() for name in members[task]}


def find_broken_tasks(manager: Any, names: list[str]) -> dict[str, Exception]:
    """The tasks and groups that cannot be loaded, each by itself.

    Raises the error of the first, with its name as a note, where none can be.
    """
    broken: dict[str, Exception] = {}
    for name in names:
        try:
            manager.load([name])
        except Exception as error:
            traceback.print_exception(error)
            broken[name] = error
    if len(broken) == len(names):
        name, first = next(iter(broken.items()))
        first.add_note(f"lm-eval cannot load {name}")
        raise first
    return broken


def evaluate_tasks(model: Any, job: Mapping[str, Any], tasks: list[Any], manager: Any, bootstrap_iters: int) -> Any:
    """Run lm-eval's evaluation with the seeds that its command line would set; returns its results."""
    import lm_eval

    seed = job["seed"]
    return lm_eval.simple_evaluate(
        model=model,
        tasks=tasks,
        task_manager=manager,
        num_fewshot=job["num_fewshot"],
        batch_size=job["batch_size"],
        device=job["device"],
        limit=job["limit"],
        bootstrap_iters=bootstrap_iters,
        log_samples=True,
        random_seed=RANDOM_SEED,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
