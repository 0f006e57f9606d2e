"""lm-eval's tasks: loaded as the job asks, and evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scanproof.evaluation.worker import lm_eval_caches

RANDOM_SEED = 0
"""lm-eval's own default for Python's random module; the other three generators take the job's seed."""


def load_tasks(request: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """lm-eval's own task objects for the request, from the folders that define them.

    Raises RuntimeError when lm-eval understands the folders differently than the search that chose them.
    """
    from lm_eval.api.group import Group
    from lm_eval.tasks import TaskManager

    lm_eval_caches.spend_less()
    manager = TaskManager(include_path=list(request["task_folders"]), include_defaults=False)
    found = manager.load(list(request["tasks"]))
    leaves = set(found["tasks"])
    if leaves != set(request["leaves"]):
        odd = sorted(leaves ^ set(request["leaves"]))
        raise RuntimeError(f"lm-eval loads other tasks than scanproof found in its files: {', '.join(odd)}")
    groups = found.get("groups", {})
    below = {task.task_name for group in groups.values() for task in group.get_all_tasks()}
    inner = {child.name for group in groups.values() for child in group if isinstance(child, Group)}
    roots = [group for name, group in groups.items() if name not in inner]
    return manager, [*roots, *(task for name, task in found["tasks"].items() if name not in below)]


def evaluate(model: Any, job: Mapping[str, Any], tasks: list[Any], manager: Any, bootstrap_iters: int) -> Any:
    """lm-eval's evaluation, with the seeds of its command line."""
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
