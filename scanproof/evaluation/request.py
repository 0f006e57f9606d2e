"""What a worker is asked to do: the request that it reads, the variables it runs with, the fingerprint of its result.

No worker is started here, and neither torch nor lm-eval is imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from scanproof.errors import EvaluationError
from scanproof.evaluation import command_line, file_digests, task_files
from scanproof.evaluation import fingerprint as fp
from scanproof.evaluation.hub import bounds, mirror
from scanproof.evaluation.imported import Imports
from scanproof.models import checkpoint_files
from scanproof.numbers.values import EvalJob, Scalar
from scanproof.numbers.verdict.engines import EngineName

BOOTSTRAP_ITERS = 1000
"""Draws for lm-eval's bootstrap stderr of perplexities.  With 1,000 draws the stderr is accurate to 2%; lm-eval's
default of 100,000 takes minutes."""
REPEATABLE = {
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
    "DISABLE_MULTIPROC": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Variables of every worker; some are read when a package is imported."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
"""Variables of a worker that a mirror serves; they are read when packages are imported."""
FORBIDDEN_ARGUMENTS = (
    "trust_remote_code", "weights_only", "pretrained", "revision", "dtype", "max_length",
    # These name further repositories, which the fingerprint would not cover.
    "peft", "delta", "gguf_file",
)  # fmt: skip
"""Arguments of the model class that a job may not set through `model_args`."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How jobs are run and where their results are kept."""

    store: Path
    mirror: Path | None
    """Folder that serves models and datasets by hub name; None uses the hub and its cache."""
    fresh: bool
    """Reuse only results that this session measured itself, and no cache of tables or task files of another session."""
    timeout: float | None
    """Seconds a worker may take; None for no limit."""
    session: str
    """Name of this session, the same in all its processes."""
    began: datetime | None = None
    """When it began, in UTC; None where nothing is told apart by it."""
    engine: EngineName = "plain"
    """The engine that scores the requests.  Where shared cannot, plain does, and the evaluation records why."""
    stopped: Callable[[], bool] = lambda: False
    """Returns whether the session is over.  Called while a job waits or runs, which then ends with SessionOver."""

    imports: Imports = field(default_factory=Imports, compare=False, repr=False)
    """What a worker would import; one object for all jobs of a session, which looks once."""

    @property
    def cache(self) -> Path:
        """Folder of what was made from datasets and task files; a fresh session has its own, `clear_cache` removes it.

        The digests of files are kept elsewhere: a file that changed is read again in any session.
        """
        return cache_folder(self.store, self.session, fresh=self.fresh)


def cache_folder(store: Path, session: str, *, fresh: bool) -> Path:
    """The folder of the caches that a session uses."""
    return session_cache(store, session) if fresh else store / "cache"


def session_cache(store: Path, session: str) -> Path:
    """The folder of the caches of one fresh session."""
    return store / "cache" / "sessions" / session


def open_digests(store: Path) -> file_digests.FileDigests:
    """The digests of files that a store remembers."""
    return file_digests.FileDigests(store / "cache" / "hashes.sqlite")


def clear_cache(store: Path, session: str) -> None:
    """Remove the caches of a fresh session, when it ends."""
    shutil.rmtree(session_cache(store, session), ignore_errors=True)


@dataclass(frozen=True)
class ResolvedJob:
    """A job together with everything that its worker needs."""

    job: EvalJob
    settings: Settings
    fingerprint: fp.Fingerprint
    request: dict[str, Any]
    """The content of `job.json`, which the worker reads."""
    unmeasured: dict[str, EvaluationError] = field(default_factory=dict)
    """Single tasks that were asked for and cannot be loaded here; `job` is without them."""


def resolve_job(job: EvalJob, settings: Settings) -> ResolvedJob:
    """Find the job's tasks and folders, and compute its fingerprint.

    Raises:
        EvaluationError: an argument is forbidden, or a task, checkpoint, dataset or file is missing.
    """
    forbidden = [name for name, _ in job.model_args if name in FORBIDDEN_ARGUMENTS]
    if forbidden:
        raise EvaluationError(
            "worker",
            f"job {job.name}: model_args may not set {', '.join(forbidden)}; use the job's own field",
        )
    index = find_index(settings)
    kept, unmeasured = leave_out_tasks(job, settings)
    job = replace(job, tasks=tuple(kept)) if unmeasured else job
    selection = task_files.select(index, job.tasks) if len(kept) > 1 else kept[job.tasks[0]]
    checkpoint: mirror.Served | None = None
    remote_code = job.trust_remote_code is not None
    if settings.mirror is not None:
        for name, revision in fp.list_checkpoints(job, settings.mirror):
            served = _find_in_mirror(settings.mirror, name, "model", revision if name == job.pretrained else None)
            _refuse_ways_out(served.folder, "model", remote_code)
            checkpoint = served if name == job.pretrained else checkpoint
    elif Path(job.pretrained).is_absolute() and Path(job.pretrained).is_dir():
        _refuse_ways_out(Path(job.pretrained), "model", remote_code)
    with open_digests(settings.store) as digests:
        try:
            fingerprint = fp.take_fingerprint(
                job, mirror_folder=settings.mirror, selection=selection, index=index, digests=digests,
                imports=settings.imports, session=settings.session, engine=settings.engine,
            )  # fmt: skip
        except OSError as error:
            raise EvaluationError("worker", f"a file the job depends on cannot be read: {error}") from error
    members = {task: list(kept[task].leaves) for task in selection.roots}
    request = _write_request(job, selection, settings, checkpoint) | {"members": members}
    return ResolvedJob(job, settings, fingerprint, request, unmeasured)


def leave_out_tasks(
    job: EvalJob, settings: Settings
) -> tuple[dict[str, task_files.Selection], dict[str, EvaluationError]]:
    """Sort the tasks of a job into those that can be loaded here and those that cannot.

    Returns:
        The tasks that lm-eval knows, and of which the mirror has the data, with what each of them needs; and the
        single tasks that are left out, with the reason.

    Raises:
        EvaluationError: no task is left; it is the error of the first.
    """
    kept: dict[str, task_files.Selection] = {}
    errors: dict[str, EvaluationError] = {}
    for task in job.tasks:
        names: tuple[str, ...] = (task,)
        try:
            selection = select_tasks(replace(job, tasks=(task,)), settings)[1]
            names = selection.leaves
            if settings.mirror is not None:
                for name in selection.datasets:
                    served = _find_in_mirror(settings.mirror, name, "dataset", None)
                    _refuse_ways_out(served.folder, "dataset", remote_code=False)
            kept[task] = selection
        except EvaluationError as error:
            errors |= dict.fromkeys(names, error)
    if not kept and errors:
        raise next(iter(errors.values()))
    return kept, errors


def request_for_worker(job: EvalJob, settings: Settings) -> tuple[dict[str, Any], dict[str, str]]:
    """The request that a worker would read for a job, and the environment variables it would run with.

    No worker is started.

    Raises:
        EvaluationError: the job cannot be run here.
    """
    resolved = resolve_job(job, settings)
    return resolved.request, worker_environment(resolved)


def find_index(settings: Settings) -> task_files.TaskFiles:
    """lm-eval's index of task files, as a worker finds it; raises EvaluationError where there are none to be read."""
    index = settings.imports.task_index(settings.cache)
    if index is None:
        raise EvaluationError("worker", "lm-eval is not installed here; install it with: pip install 'lm-eval[hf]'")
    return index


def select_tasks(job: EvalJob, settings: Settings) -> tuple[task_files.TaskFiles, task_files.Selection]:
    """lm-eval's index of task files, and the files that define the job's tasks.

    Raises:
        EvaluationError: lm-eval is not installed, or it has no task of that name.
    """
    index = find_index(settings)
    try:
        return index, task_files.select(index, job.tasks)
    except task_files.UnknownTask as error:
        raise EvaluationError("worker", f"job {job.name}: {error}") from error


def _find_in_mirror(folder: Path, name: str, kind: checkpoint_files.RepoType, revision: str | None) -> mirror.Served:
    """The mirror's folder for a repository; raises EvaluationError of kind missing, checkpoint or dataset."""
    try:
        return mirror.resolve(folder, name, kind, revision)
    except mirror.NotInMirror as error:
        raise EvaluationError("missing", str(error)) from error
    except mirror.MirrorError as error:
        raise EvaluationError("checkpoint" if kind == "model" else "dataset", str(error)) from error


def _refuse_ways_out(folder: Path, kind: checkpoint_files.RepoType, remote_code: bool) -> None:
    """Raise EvaluationError for a folder that names files outside it, which the fingerprint would not cover."""
    try:
        bounds.refuse_ways_out(folder, kind, remote_code=remote_code)
    except (bounds.LeadsOut, OSError) as error:
        raise EvaluationError("checkpoint" if kind == "model" else "dataset", str(error)) from error


def _write_request(
    job: EvalJob, selection: task_files.Selection, settings: Settings, checkpoint: mirror.Served | None
) -> dict[str, Any]:
    """The content of `job.json`; `checkpoint` is the mirror's folder, None where no mirror is used."""
    local = checkpoint.folder if checkpoint else Path(job.pretrained)
    is_local = checkpoint is not None or (local.is_absolute() and local.is_dir())
    arguments: dict[str, Scalar] = {
        **command_line.model_args(job),
        "pretrained": str(local) if is_local else job.pretrained,
    }
    if job.trust_remote_code is not None:
        arguments["trust_remote_code"] = True
    own_models = importlib.util.find_spec("scanproof.models")
    return {
        "job": asdict(job),
        "model_args": arguments,
        "revision": None if is_local else job.revision,
        "commit": checkpoint.commit if checkpoint else None,
        "mirror": str(settings.mirror) if settings.mirror else None,
        "tasks": list(selection.roots),
        "task_folders": [str(folder) for folder in selection.folders],
        "models": "scanproof.models" if own_models is not None and own_models.origin else None,
        "bootstrap_iters": BOOTSTRAP_ITERS,
        "engine": settings.engine,
    }


def worker_environment(resolved: ResolvedJob) -> dict[str, str]:
    """The worker's environment variables: those of this process, and those that keep it offline and repeatable."""
    settings, parts = resolved.settings, resolved.fingerprint.parts
    variables = {
        **fp.environment_variables(),
        **REPEATABLE,
        "SCANPROOF_WORKER": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }
    for name in ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TRANSFORMERS_VERBOSITY"):
        variables.pop(name, None)
    if resolved.job.suite == "embedded":
        # The operations of a stand-in are too small to share between threads.  Where cores are busy, threads wait for
        # each other ten times as long as one thread computes.
        variables.setdefault("OMP_NUM_THREADS", "1")
    if settings.mirror is not None:
        # datasets finds its Arrow files by path and time stamp, not by content.  One folder per content prevents
        # that it reads files of an older dataset.
        content = json.dumps([parts["datasets"], parts["packages"]["datasets"]], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()
        cache = settings.cache
        variables |= {
            **OFFLINE,
            "HF_HOME": str(cache / "hf"),
            "HF_HUB_CACHE": str(cache / "hf" / "hub"),
            "HF_MODULES_CACHE": str(cache / "hf" / "modules"),
            "HF_DATASETS_CACHE": str(cache / "datasets" / digest[:32]),
        }
    return variables
