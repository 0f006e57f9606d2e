"""Load lm-eval's tasks for a job, and evaluate them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scanproof.evaluation.worker import lm_eval_caches

RANDOM_SEED = 0
"""Seed of Python's random module, the default of lm-eval; the other three generators use the job's seed."""


def load_tasks(request: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """Load lm-eval's task objects for a request, from the folders that define them.

    Returns:
        lm-eval's task manager, and the groups and tasks to evaluate.

    Raises:
        RuntimeError: lm-eval finds other tasks in these folders than `scanproof.evaluation.task_files` found.
    """
    from lm_eval.api.group import Group
    from lm_eval.tasks import TaskManager

    lm_eval_caches.install_caches()
    manager = TaskManager(include_path=list(request["task_folders"]), include_defaults=False)
    loaded = manager.load(list(request["tasks"]))
    leaves = set(loaded["tasks"])
    if leaves != set(request["leaves"]):
        different = sorted(leaves ^ set(request["leaves"]))
        raise RuntimeError(f"lm-eval loads other tasks than scanproof found in its files: {', '.join(different)}")
    groups = loaded.get("groups", {})
    below = {task.task_name for group in groups.values() for task in group.get_all_tasks()}
    inner = {child.name for group in groups.values() for child in group if isinstance(child, Group)}
    roots = [group for name, group in groups.items() if name not in inner]
    return manager, [*roots, *(task for name, task in loaded["tasks"].items() if name not in below)]


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
