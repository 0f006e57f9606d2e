"""Caches for work that lm-eval and its libraries repeat per document or task.  No prompt and no number changes.

For 57 MMLU subjects, or for 2,200 documents of the other tasks, this work took more than half of a small job's time
(`docs/decisions/0017-side-by-side.md` has the table).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

TEMPLATES = 4096
"""Compiled templates that are kept; a job has a few for each of its tasks."""


def install_caches() -> None:
    """Install the caches in this process, before tasks are loaded; a second call changes nothing.

    What a release of lm-eval or datasets lacks is left out: it would only save time.

    - lm-eval compiles a task's templates again for every document (`lm_eval.utils.apply_template`).
    - datasets reads a repository's README, with all its configurations, again for every configuration
      (`load_dataset_builder`).
    - lm-eval reports `pip list` with its results.  Nobody reads it here: `environment.json` lists the packages.
    """
    import datasets.load
    import lm_eval.utils
    import torch.utils.collect_env

    templates: Any = getattr(lm_eval.utils, "env", None)
    if templates is not None and not hasattr(templates.from_string, "cache_info"):
        templates.from_string = lru_cache(maxsize=TEMPLATES)(templates.from_string)
    loading: Any = datasets.load
    factory = getattr(loading, "dataset_module_factory", None)
    if factory is not None and not isinstance(factory, CachedModuleFactory):
        loading.dataset_module_factory = CachedModuleFactory(factory)
    collect: Any = torch.utils.collect_env
    collect.get_pretty_env_info = lambda: "see environment.json"


class CachedModuleFactory:
    """Calls `factory`, which finds the files of a dataset repository, once for the same arguments."""

    def __init__(self, factory: Callable[..., Any]) -> None:
        self.factory = factory
        self.modules: dict[str, Any] = {}

    def __call__(self, *args: Any, **options: Any) -> Any:
        # Options are dataclasses and plain values, so equal options have equal reprs.
        key = repr((args, sorted(options.items())))
        if key not in self.modules:
            self.modules[key] = self.factory(*args, **options)
        module = self.modules[key]
        # The caller pops entries, so return a copy.
        return replace(module, builder_kwargs=dict(module.builder_kwargs))
