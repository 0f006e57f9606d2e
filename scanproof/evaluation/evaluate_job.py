"""Run an evaluation job once, in a process of its own, and keep what it measured.

Nothing here imports torch or lm-eval: the worker process loads them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import BaseFileLock, Timeout

from scanproof import files
from scanproof.errors import EvaluationError, FailureKind, last_lines
from scanproof.evaluation import command_line, process, results, store
from scanproof.evaluation import fingerprint as fp
from scanproof.evaluation.imported import Imports
from scanproof.evaluation.process import Progress
from scanproof.evaluation.request import ResolvedJob, Settings, open_digests, resolve_job, worker_environment
from scanproof.kernels.launches import proof
from scanproof.kernels.launches.launched import Launches
from scanproof.numbers.values import EvalJob
from scanproof.numbers.verdict.engines import EngineName
from scanproof.record import Evaluation, Unmeasured


def evaluate(job: EvalJob, settings: Settings, *, progress: Callable[[Progress], None]) -> Evaluation:
    """Measure a job, or read its measurements from the store when nothing that can change them has changed.

    Processes that ask for the same job at the same time run it once.

    Raises:
        EvaluationError: the job cannot be run, or its worker failed.
    """
    started = time.monotonic()
    folder = settings.mirror.resolve() if settings.mirror else None
    settings = replace(settings, store=settings.store.resolve(), mirror=folder)
    try:
        resolved = resolve_job(job, settings)
        lock = store.lock(settings.store, resolved.fingerprint.key)
        with _hold_lock(lock, started, progress, settings.stopped):
            evaluation, reasons = _read_stored(resolved)
            if evaluation is None:
                with _hold_device(resolved, started, progress):
                    evaluation = _run_worker(resolved, reasons, started, progress)
            left_out = {
                task: Unmeasured(kind=error.kind, message=error.message) for task, error in resolved.unmeasured.items()
            }
            return replace(evaluation, job=job, unmeasured=evaluation.unmeasured | left_out)
    except OSError as error:
        raise EvaluationError("worker", explain_os_error(error, settings.store)) from error


def explain_os_error(error: OSError, root: Path) -> str:
    """What is wrong with the store in the folder `root`, or with a file elsewhere, which is not the store's fault."""
    path = error.filename
    if isinstance(path, str) and not Path(path).is_relative_to(root):
        return f"{path} cannot be read: {error.strerror}"
    return f"the store {root} cannot be used: {error}"


def _hold_device(
    resolved: ResolvedJob, started: float, progress: Callable[[Progress], None]
) -> AbstractContextManager[None]:
    """Wait until no other job uses the GPU, which has memory for one only; CPU jobs do not wait."""
    if not resolved.job.device.startswith("cuda"):
        return nullcontext()
    device = f"{resolved.job.device} of {os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}"
    lock = store.lock(resolved.settings.store, f"device-{hashlib.sha256(device.encode()).hexdigest()[:16]}")
    return _hold_lock(lock, started, progress, resolved.settings.stopped)


@contextmanager
def _hold_lock(
    lock: BaseFileLock, started: float, progress: Callable[[Progress], None], stopped: Callable[[], bool]
) -> Iterator[None]:
    """Hold a lock; while another process holds it, report `waiting` every second."""
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


def _read_stored(resolved: ResolvedJob) -> tuple[Evaluation | None, list[str]]:
    """The stored evaluation if it may be used; else None, and the reasons why the job has to run."""
    try:
        return _use_stored(resolved)
    except store.DamagedEntry as error:
        aside = store.set_aside(resolved.settings.store, resolved.fingerprint.key)
        return None, [f"the stored evaluation was damaged: {error}; moved to {aside}"]


def _use_stored(resolved: ResolvedJob) -> tuple[Evaluation | None, list[str]]:
    """As `_read_stored`; raises DamagedEntry where it is not as it was written."""
    root, key = resolved.settings.store, resolved.fingerprint.key
    entry = store.read(root, key)
    if entry is None:
        return None, _changes_since_last_run(resolved)
    if resolved.settings.fresh and entry.session != resolved.settings.session:
        return None, ["a fresh run was asked for"]
    with store.damaged_unless_sound(entry.folder):
        unmeasured = results.read_unmeasured(entry.folder)
    if entry.session != resolved.settings.session and unmeasured:
        return None, [f"{', '.join(sorted(unmeasured))}: could not be loaded then"]
    with open_digests(root) as digests:
        changes = resolved.settings.imports.list_changes(entry.imported, digests)
    if changes:
        return None, changes
    return _read_evaluation(resolved, entry, reused=True), []


def _changes_since_last_run(resolved: ResolvedJob) -> list[str]:
    """How the job differs from the last job of the same name and engine."""
    latest = _latest_file(resolved.settings.store, resolved.job.name, resolved.settings.engine)
    try:
        content = files.read_json_object(latest)
    except FileNotFoundError:
        return ["never run before"]
    except (OSError, ValueError) as error:
        return [f"{latest} cannot be read: {error}"]
    old = content.get("parts", content)
    if not isinstance(old, dict):
        return [f"{latest} cannot be read: its parts are {files.name_json_type(old)}, not an object"]
    changed = fp.list_changes(old, json.loads(json.dumps(resolved.fingerprint.parts)))
    unknown = [f"{name}: not known before the run, so not reused later" for name in resolved.fingerprint.unknown]
    return [*changed, *unknown] or ["no longer in the store"]


def last_launches(root: Path, job: str, engine: EngineName = "plain") -> Launches | None:
    """Which kernels the last stored evaluation of this job launched; None where the store does not hold it any more."""
    try:
        key = files.read_json_object(_latest_file(root, job, engine))["key"]
        return results.read_launches(store.folder_of(root, key)) if store.is_key(key) else None
    except (OSError, ValueError, KeyError):
        return None


def _latest_file(root: Path, job: str, engine: EngineName) -> Path:
    """The file that names a job's last evaluation: one per engine, because the engines launch different kernels."""
    name = hashlib.sha256((job if engine == "plain" else f"{job} {engine}").encode()).hexdigest()[:16]
    return root / "latest" / f"{name}.json"


def _run_worker(
    resolved: ResolvedJob, reasons: list[str], started: float, progress: Callable[[Progress], None]
) -> Evaluation:
    """Run the worker and store its results; `reasons` say why the job runs.  Raises EvaluationError."""
    settings, job = resolved.settings, resolved.job
    attempt = store.new_attempt(settings.store)
    out = attempt / "out"
    out.mkdir()
    files.write_atomically(attempt / "job.json", files.to_sorted_json(resolved.request))
    begun = time.monotonic()
    try:
        environment = worker_environment(resolved)
        code = process.supervise(attempt, environment, settings.timeout, started, progress, settings.stopped)
        failure = None if code == 0 and (out / "results.json").is_file() else process.why_failed(out, code)
    except subprocess.TimeoutExpired:
        stage = process.last_stage(out)
        failure = ("timeout", f"no result after {settings.timeout:g} s; the worker was at: {stage}")
    except BaseException:
        store.keep_failure(settings.store, job.name, attempt)
        raise
    imports = settings.imports.renewed()
    if failure is None:
        failure = _find_changed_inputs(resolved, imports) or _find_missing_kernels(resolved, out)
    if failure is not None:
        raise _keep_failure(resolved, attempt, failure)
    return _store_results(resolved, attempt, imports, reasons, time.monotonic() - begun)


def _keep_failure(resolved: ResolvedJob, attempt: Path, failure: tuple[FailureKind, str]) -> EvaluationError:
    """Keep what a failed worker left; returns the error to raise, which names its log."""
    kind, text = failure
    launches = results.read_launches(attempt / "out")
    hints = proof.explain_broken_extensions(resolved.job.kernels, launches) if kind != "fallback" else []
    log = store.keep_failure(resolved.settings.store, resolved.job.name, attempt) / "worker.log"
    return EvaluationError(kind, "\n".join([text, *hints]), last_lines(log), str(log))


def _store_results(
    resolved: ResolvedJob, attempt: Path, imports: Imports, reasons: list[str], seconds: float
) -> Evaluation:
    """Move the results of a finished worker into the store."""
    settings, job, fingerprint = resolved.settings, resolved.job, resolved.fingerprint
    out = attempt / "out"
    before = last_launches(settings.store, job.name, settings.engine)
    changed = proof.compare_choices(before, results.read_launches(out))
    documents = {
        "job.json": asdict(job),
        "fingerprint.json": {"key": fingerprint.key, "parts": fingerprint.parts, "unknown": fingerprint.unknown},
        "run.json": {"seconds": seconds, "because": reasons, "kernel_changes": changed},
    }
    with open_digests(settings.store) as digests:
        imported = imports.describe(json.loads((out / store.IMPORTED).read_bytes()), digests)
    documents[store.IMPORTED] = asdict(imported)
    (attempt / "worker.log").rename(out / "worker.log")
    entry = store.add(settings.store, fingerprint.key, out, session=settings.session, documents=documents)
    latest = {"key": fingerprint.key, "parts": fingerprint.parts}
    files.write_atomically(_latest_file(settings.store, job.name, settings.engine), files.to_sorted_json(latest))
    (attempt / "job.json").unlink()
    attempt.rmdir()
    return _read_evaluation(resolved, entry, reused=False)


@dataclass(frozen=True)
class _RunFile:
    """The content of `run.json` in the store."""

    seconds: float
    because: list[str]
    kernel_changes: list[str]


def _find_missing_kernels(resolved: ResolvedJob, out: Path) -> tuple[FailureKind, str] | None:
    """A failure when kernels that the job needs did not run: such numbers are never stored."""
    problems = proof.find_missing_kernels(resolved.job.kernels, results.read_launches(out))
    return ("fallback", proof.describe_missing_kernels(problems)) if problems else None


def _find_changed_inputs(resolved: ResolvedJob, imports: Imports) -> tuple[FailureKind, str] | None:
    """A failure when something that the numbers depend on changed while the worker ran."""
    if resolved.fingerprint.unknown:
        return None
    try:
        now = resolve_job(resolved.job, replace(resolved.settings, imports=imports))
    except EvaluationError as error:
        return error.kind, f"gone while the job ran: {error.message}"
    changes = "; ".join(fp.list_changes(resolved.fingerprint.parts, now.fingerprint.parts))
    if not changes:
        return None
    return "worker", f"changed while the job ran, so its numbers belong to neither state: {changes}"


def _read_evaluation(resolved: ResolvedJob, entry: store.Entry, *, reused: bool) -> Evaluation:
    with store.damaged_unless_sound(entry.folder):
        return _build_evaluation(resolved, entry, reused=reused)


def _build_evaluation(resolved: ResolvedJob, entry: store.Entry, *, reused: bool) -> Evaluation:
    run = files.read_record(_RunFile, entry.folder / "run.json")
    scored = results.read_scored(entry.folder)
    return Evaluation(
        job=resolved.job,
        key=resolved.fingerprint.key,
        measurements=tuple(results.read_measurement(fields) for fields in entry.results["measurements"]),
        samples=str(entry.samples),
        command=command_line.command(resolved.job, resolved.settings.mirror, resolved.request["tasks"]),
        environment={**entry.environment, "recomputed_because": run.because},
        seconds=run.seconds,
        peak_memory_bytes=entry.environment.get("peak_memory_bytes"),
        reused=reused,
        session=entry.session,
        measured=entry.finished,
        kernels=results.read_launches(entry.folder),
        kernel_changes=tuple(run.kernel_changes),
        engine=scored.engine,
        engine_because=scored.because,
        scoring=scored.scoring,
        unmeasured=results.read_unmeasured(entry.folder),
    )
