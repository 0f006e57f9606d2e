"""What lm-eval and its libraries do again for every document or task, done once.  No prompt and no number changes.

For 57 MMLU subjects, or 2,200 documents of the other tasks, more than half of a small job's seconds went there
(`docs/decisions/0017-side-by-side.md` has the table).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

TEMPLATES = 4096
"""Compiled templates that are kept; a job has a few for each of its tasks."""


def spend_less() -> None:
    """Set it up in this process, before tasks are loaded; more than once if need be.

    lm-eval compiles a task's templates anew for every document (`lm_eval.utils.apply_template`); datasets reads a
    repository's README, with all its configurations, for every configuration (`load_dataset_builder`); and with its
    results lm-eval reports `pip list`, which nobody reads here: `environment.json` says what is installed.
    """
    import datasets.load
    import lm_eval.utils
    import torch.utils.collect_env

    templates: Any = lm_eval.utils.env
    if not hasattr(templates.from_string, "cache_info"):
        templates.from_string = lru_cache(maxsize=TEMPLATES)(templates.from_string)
    loading: Any = datasets.load
    if not isinstance(loading.dataset_module_factory, Remembered):
        loading.dataset_module_factory = Remembered(loading.dataset_module_factory)
    collect: Any = torch.utils.collect_env
    collect.get_pretty_env_info = lambda: "see environment.json"


class Remembered:
    """Calls `find`, which says what a dataset repository holds, once for the same arguments."""

    def __init__(self, find: Callable[..., Any]) -> None:
        self.find = find
        self.found: dict[str, Any] = {}

    def __call__(self, *args: Any, **options: Any) -> Any:
        # Options are dataclasses and plain values: what they print is what they are.
        key = repr((args, sorted(options.items())))
        if key not in self.found:
            self.found[key] = self.find(*args, **options)
        module = self.found[key]
        # Who asked takes things out of this dictionary.
        return replace(module, builder_kwargs=dict(module.builder_kwargs))
