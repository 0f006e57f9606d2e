"""Run an evaluation job once, in a process of its own, and keep what it measured.

Nothing here imports torch or lm-eval: they are loaded by the worker.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, Timeout

from scanproof import files
from scanproof.errors import EvaluationError, Kind, last_lines
from scanproof.evaluation import command_line, file_digests, process, results, store, task_files
from scanproof.evaluation import fingerprint as fp
from scanproof.evaluation.hub import mirror
from scanproof.evaluation.process import Progress
from scanproof.kernels.launches import proof
from scanproof.kernels.launches.launched import Launches
from scanproof.models import checkpoint_files
from scanproof.numbers.values import EvalJob, Scalar
from scanproof.numbers.verdict.engines import Engine
from scanproof.record import Evaluation

__all__ = ["EvaluationError", "Kind", "Progress", "Settings", "evaluate", "plain_command", "request_for_worker"]

BOOTSTRAP_ITERS = 1000
"""Draws for lm-eval's bootstrap stderr of perplexities: 2% accurate; its default of 100,000 takes minutes."""
FORBIDDEN_ARGUMENTS = (
    "trust_remote_code", "weights_only", "pretrained", "revision", "dtype", "max_length",
    # They name further repositories, which nothing here would identify.
    "peft", "delta", "gguf_file",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How jobs are run and where their results are kept."""

    store: Path
    mirror: Path | None
    """Folder that serves models and datasets by hub name; None uses the hub and its cache."""
    fresh: bool
    """Reuse only what this session measured itself."""
    timeout: float | None
    """Seconds a worker may take; None for no limit."""
    session: str
    """Name of this session, the same in all its processes."""
    engine: Engine = "plain"
    """What has to score the requests; where shared cannot, plain does, and the evaluation says why."""
    stopped: Callable[[], bool] = lambda: False
    """Whether the session is over: asked while a job waits or runs, which then ends with SessionOver."""


@dataclass(frozen=True)
class _Plan:
    """A job with everything resolved that its worker needs."""

    job: EvalJob
    settings: Settings
    print: fp.Fingerprint
    request: dict[str, Any]


def evaluate(job: EvalJob, settings: Settings, *, progress: Callable[[Progress], None]) -> Evaluation:
    """Measure a job, or take its measurements from the store when nothing that can move them has changed.

    Processes that ask for the same job at the same time run it once.  Raises EvaluationError.
    """
    started = time.monotonic()
    folder = settings.mirror.resolve() if settings.mirror else None
    settings = replace(settings, store=settings.store.resolve(), mirror=folder)
    try:
        plan = _plan(job, settings)
        with _only_one(store.lock(settings.store, plan.print.key), started, progress, settings.stopped):
            kept, why = _kept(plan)
            if kept is not None:
                return kept
            with _device(plan, started, progress):
                return _run(plan, why, started, progress)
    except OSError as error:
        raise EvaluationError("worker", f"the store {settings.store} cannot be used: {error}") from error


def request_for_worker(job: EvalJob, settings: Settings) -> tuple[dict[str, Any], dict[str, str]]:
    """What a worker would read for a job, and the environment variables it would run with; nothing is run.

    Raises:
        EvaluationError: the job cannot be run here.
    """
    plan = _plan(job, settings)
    return plan.request, _environment(plan)


def plain_command(job: EvalJob, settings: Settings) -> str:
    """A shell line that repeats the job with plain `lm_eval`; see `scanproof.evaluation.command_line.command`."""
    return command_line.command(job, settings.mirror, _selection(job, settings)[1].roots)


def _device(plan: _Plan, started: float, progress: Callable[[Progress], None]) -> AbstractContextManager[None]:
    """Jobs on one GPU wait for each other, or they run out of its memory; CPU jobs wait for nobody."""
    if not plan.job.device.startswith("cuda"):
        return nullcontext()
    device = f"{plan.job.device} of {os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}"
    lock = store.lock(plan.settings.store, f"device-{hashlib.sha256(device.encode()).hexdigest()[:16]}")
    return _only_one(lock, started, progress, plan.settings.stopped)


@contextmanager
def _only_one(
    lock: BaseFileLock, started: float, progress: Callable[[Progress], None], stopped: Callable[[], bool]
) -> Iterator[None]:
    """Hold a lock; while another process has it, say so every second."""
    while not lock.is_locked:
        if stopped():
            raise process.SessionOver
        try:
            lock.acquire(timeout=1)
        except Timeout:
            progress(Progress("waiting", 0, 0, time.monotonic() - started))
    try:
        yield
    finally:
        lock.release()


def _plan(job: EvalJob, settings: Settings) -> _Plan:
    """Resolve tasks, folders and the fingerprint; raises EvaluationError for what is missing."""
    forbidden = [name for name, _ in job.model_args if name in FORBIDDEN_ARGUMENTS]
    if forbidden:
        raise EvaluationError(
            "worker",
            f"job {job.name}: model_args may not set {', '.join(forbidden)}; use the job's own field",
        )
    index, selection = _selection(job, settings)
    served: mirror.Served | None = None
    if settings.mirror is not None:
        for name, revision in fp.checkpoints(job, settings.mirror):
            found = _resolve(settings.mirror, name, "model", revision if name == job.pretrained else None)
            served = found if name == job.pretrained else served
        for name in selection.datasets:
            _resolve(settings.mirror, name, "dataset", None)
    with file_digests.FileHashes(settings.store / "cache" / "hashes.sqlite") as hashes:
        try:
            fingerprint = fp.fingerprint(
                job, mirror_folder=settings.mirror, selection=selection, index=index, hashes=hashes,
                session=settings.session, engine=settings.engine,
            )  # fmt: skip
        except OSError as error:
            raise EvaluationError("worker", f"a file the job depends on cannot be read: {error}") from error
    return _Plan(job, settings, fingerprint, _request(job, selection, settings, served))


def _selection(job: EvalJob, settings: Settings) -> tuple[task_files.TaskFiles, task_files.Selection]:
    package = task_files.package_folder("lm_eval")
    if package is None:
        raise EvaluationError("worker", "lm-eval is not installed here; install it with: pip install 'lm-eval[hf]'")
    index = task_files.load_index(package / "tasks", settings.store / "cache")
    try:
        return index, task_files.select(index, job.tasks)
    except task_files.UnknownTask as error:
        raise EvaluationError("worker", f"job {job.name}: {error}") from error


def _resolve(folder: Path, name: str, kind: checkpoint_files.RepoType, revision: str | None) -> mirror.Served:
    try:
        return mirror.resolve(folder, name, kind, revision)
    except mirror.NotInMirror as error:
        raise EvaluationError("missing", str(error)) from error
    except mirror.MirrorError as error:
        raise EvaluationError("checkpoint" if kind == "model" else "dataset", str(error)) from error


def _request(
    job: EvalJob, selection: task_files.Selection, settings: Settings, served: mirror.Served | None
) -> dict[str, Any]:
    """What the worker reads."""
    local = served.folder if served else Path(job.pretrained)
    is_local = served is not None or (local.is_absolute() and local.is_dir())
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
        "commit": served.commit if served else None,
        "mirror": str(settings.mirror) if settings.mirror else None,
        "tasks": list(selection.roots),
        "leaves": list(selection.leaves),
        "task_folders": [str(folder) for folder in selection.folders],
        "models": "scanproof.models" if own_models is not None and own_models.origin else None,
        "bootstrap_iters": BOOTSTRAP_ITERS,
        "engine": settings.engine,
    }


def _kept(plan: _Plan) -> tuple[Evaluation | None, list[str]]:
    """The stored evaluation if it may be used; else None and why the job has to run."""
    root, key = plan.settings.store, plan.print.key
    try:
        entry = store.read(root, key)
    except store.DamagedEntry as error:
        return None, [f"the stored evaluation was damaged: {error}; moved to {store.set_aside(root, key)}"]
    if entry is None:
        return None, _changed_since_last(plan)
    if plan.settings.fresh and entry.session != plan.settings.session:
        return None, ["a fresh run was asked for"]
    return _evaluation(plan, entry, reused=True), []


def _changed_since_last(plan: _Plan) -> list[str]:
    """How the job differs from the last one of its name."""
    latest = _latest(plan.settings.store, plan.job.name, plan.settings.engine)
    if not latest.is_file():
        return ["never run before"]
    try:
        content = json.loads(latest.read_bytes())
        old = content.get("parts", content)
    except ValueError:
        return [f"{latest} cannot be read"]
    changed = fp.changes(old, json.loads(json.dumps(plan.print.parts)))
    unknown = [f"{name}: not known before the run, so not reused later" for name in plan.print.unknown]
    return [*changed, *unknown] or ["no longer in the store"]


def last_launches(root: Path, job: str, engine: Engine = "plain") -> Launches | None:
    """What the last stored evaluation of this job launched; None where that is not known any more."""
    try:
        key = json.loads(_latest(root, job, engine).read_bytes())["key"]
        return results.read_launches(store.folder_of(root, key))
    except (OSError, ValueError, KeyError):
        return None


def _latest(root: Path, job: str, engine: Engine) -> Path:
    """Each engine is held against itself: they launch other kernels."""
    name = hashlib.sha256((job if engine == "plain" else f"{job} {engine}").encode()).hexdigest()[:16]
    return root / "latest" / f"{name}.json"


def _run(plan: _Plan, why: list[str], started: float, progress: Callable[[Progress], None]) -> Evaluation:
    """Run the worker and store what it leaves; raises EvaluationError."""
    root = plan.settings.store
    attempt = store.new_attempt(root)
    out = attempt / "out"
    out.mkdir()
    files.write_atomically(attempt / "job.json", store.to_json(plan.request))
    begun = time.monotonic()
    try:
        settings = plan.settings
        code = process.supervise(attempt, _environment(plan), settings.timeout, started, progress, settings.stopped)
        failure = None if code == 0 and (out / "results.json").is_file() else process.why_failed(out, code)
    except subprocess.TimeoutExpired:
        stage = process.last_stage(out)
        failure = ("timeout", f"no result after {plan.settings.timeout:g} s; the worker was at: {stage}")
    except BaseException:
        store.keep_failure(root, plan.job.name, attempt)
        raise
    if failure is None:
        failure = _changed_meanwhile(plan) or _without_kernels(plan, out)
    if failure is not None:
        hints = proof.hints(plan.job.kernels, results.read_launches(out)) if failure[0] != "fallback" else []
        failure = failure[0], "\n".join([failure[1], *hints])
        log = store.keep_failure(root, plan.job.name, attempt) / "worker.log"
        raise EvaluationError(failure[0], failure[1], last_lines(log), str(log))
    seconds = time.monotonic() - begun
    before = last_launches(root, plan.job.name, plan.settings.engine)
    changed = proof.changed(before, results.read_launches(out))
    documents = {
        "job.json": asdict(plan.job),
        "fingerprint.json": {"key": plan.print.key, "parts": plan.print.parts, "unknown": plan.print.unknown},
        "run.json": {"seconds": seconds, "because": why, "kernel_changes": changed},
    }
    (attempt / "worker.log").rename(out / "worker.log")
    entry = store.add(root, plan.print.key, out, session=plan.settings.session, documents=documents)
    latest = {"key": plan.print.key, "parts": plan.print.parts}
    files.write_atomically(_latest(root, plan.job.name, plan.settings.engine), store.to_json(latest))
    (attempt / "job.json").unlink()
    attempt.rmdir()
    return _evaluation(plan, entry, reused=False)


def _environment(plan: _Plan) -> dict[str, str]:
    """The worker's environment variables: ours, and what keeps it offline and repeatable."""
    cache = plan.settings.store / "cache"
    read = [plan.print.parts["datasets"], plan.print.parts["packages"]["datasets"]]
    data = hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()
    variables = {
        **fp.variables(),
        "SCANPROOF_WORKER": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONHASHSEED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
        "DISABLE_MULTIPROC": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for name in ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TRANSFORMERS_VERBOSITY"):
        variables.pop(name, None)
    if plan.job.suite == "embedded":
        # Operations of a stand-in are too small to share: where cores are busy, threads wait for each other ten times
        # as long as one thread computes.
        variables.setdefault("OMP_NUM_THREADS", "1")
    if plan.settings.mirror is not None:
        # Arrow files are found by path and time stamp, not by content; a folder per content cannot be stale.
        variables |= {
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HOME": str(cache / "hf"),
            "HF_HUB_CACHE": str(cache / "hf" / "hub"),
            "HF_MODULES_CACHE": str(cache / "hf" / "modules"),
            "HF_DATASETS_CACHE": str(cache / "datasets" / data[:32]),
        }
    return variables


def _without_kernels(plan: _Plan, out: Path) -> tuple[Kind, str] | None:
    """An error when kernels that the job needs did not run: its numbers are never stored."""
    found = proof.problems(plan.job.kernels, results.read_launches(out))
    return ("fallback", proof.message(found)) if found else None


def _changed_meanwhile(plan: _Plan) -> tuple[Kind, str] | None:
    """An error when something the numbers depend on changed while the worker read it."""
    if plan.print.unknown:
        return None
    try:
        now = _plan(plan.job, plan.settings)
    except EvaluationError as error:
        return error.kind, f"gone while the job ran: {error.message}"
    found = "; ".join(fp.changes(plan.print.parts, now.print.parts))
    return ("worker", f"changed while the job ran, so its numbers belong to neither state: {found}") if found else None


def _evaluation(plan: _Plan, entry: store.Entry, *, reused: bool) -> Evaluation:
    run = json.loads((entry.folder / "run.json").read_bytes())
    scored = results.read_scored(entry.folder)
    return Evaluation(
        job=plan.job,
        key=plan.print.key,
        measurements=tuple(results.read_measurement(fields) for fields in entry.results["measurements"]),
        samples=str(entry.samples),
        command=command_line.command(plan.job, plan.settings.mirror, plan.request["tasks"]),
        environment={**entry.environment, "recomputed_because": run["because"]},
        seconds=run["seconds"],
        peak_memory_bytes=entry.environment.get("peak_memory_bytes"),
        reused=reused,
        kernels=results.read_launches(entry.folder),
        kernel_changes=tuple(run["kernel_changes"]),
        engine=scored.engine,
        engine_because=scored.because,
        scoring=scored.scoring,
    )
