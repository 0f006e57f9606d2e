"""The process that runs one evaluation: `python -m scanproof.evaluation.worker.run request.json out/`.

It reads a request, which `scanproof.evaluation.request` makes, and writes files into `out/`:

- `progress.jsonl`, one line per stage or step, while it works;
- `results.json`, `environment.json`, `scored.json` and `samples/<task>.jsonl` at the end;
- `kernels.json`, if the job uses a GPU or names kernels;
- `error.json` (kind, message, stage, traceback) in place of the results, if it fails.

It kills itself when its standard input closes, because then the process that started it is gone.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scanproof import environment, errors, files
from scanproof.evaluation import results, store
from scanproof.evaluation.hub.bounds import refuse_ways_out
from scanproof.evaluation.results import Scored
from scanproof.evaluation.worker.checkpoint_check import check_tokenizer, require_complete_checkpoint
from scanproof.evaluation.worker.lm_eval_tasks import evaluate_tasks, load_tasks
from scanproof.kernels.launches import machine
from scanproof.models.snapshot import snapshot
from scanproof.numbers.verdict.engines import Scoring

if TYPE_CHECKING:
    from scanproof.kernels.launches.profiler import FirstBatch

REPORT_EVERY_SECONDS = 0.5
PROBE = "A probe."
"""Text whose tokens are recorded; see `probe_tokens`."""


class ProgressWriter:
    """Writes the stage and the number of answered requests as JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started = time.monotonic()
        self._written = -math.inf
        self.name, self.done, self.total = "start", 0, 0

    def stage(self, name: str, total: int = 0) -> None:
        """Enter a stage; the line is written at once."""
        self.name, self.done, self.total = name, 0, total
        self._write()

    def advance(self) -> None:
        """Count one more answered request; lines are written at most twice a second."""
        self.done += 1
        if self.done == self.total or time.monotonic() - self._written >= REPORT_EVERY_SECONDS:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        seconds = self._written - self._started
        line = {"stage": self.name, "done": self.done, "total": self.total, "seconds": seconds}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")


class CountingHook:
    """Replaces lm-eval's cache hook, which is called with each answered request.  It counts and caches nothing."""

    def __init__(self, advance: Callable[[], None], profile: FirstBatch | None = None) -> None:
        self._advance, self._profile = advance, profile

    def add_partial(self, attr: str, req: Iterable[Any], res: Any) -> None:
        if self._profile is not None:
            self._profile.stop()
        self._advance()


def main(arguments: list[str]) -> int:
    """Run the request; returns the exit code."""
    request = json.loads(Path(arguments[0]).read_bytes())
    out = Path(arguments[1]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    reporter = ProgressWriter(out / "progress.jsonl")
    try:
        reporter.stage("start")
        if request["mirror"]:
            os.chdir(request["mirror"])
        run_request(request, out, reporter)
    except BaseException as error:
        write_failure(error, reporter.name, out)
        return 1
    return 0


def write_failure(error: BaseException, stage: str, out: Path) -> None:
    """Write the kind, the message and the traceback for the parent process."""
    (out / "traceback.txt").write_text("".join(traceback.format_exception(error)))
    failure = {
        "kind": errors.classify(stage, error),
        "message": errors.describe(error),
        "stage": stage,
        "traceback": "traceback.txt",
    }
    files.write_atomically(out / "error.json", files.to_sorted_json(failure))
    traceback.print_exception(error)


def run_request(request: Mapping[str, Any], out: Path, reporter: ProgressWriter) -> None:
    """Evaluate the request, record which kernels are launched, and write the results."""
    with record_launches(request["job"], out) as profile:
        measured, used, describe_scoring, broken = measure(request, reporter, profile)
    # The spot check runs after the recording: its kernels, launched by plain, prove nothing about the shared engine.
    scored = describe_scoring()
    reporter.stage("write")
    if broken:
        unmeasured = {
            task: {"kind": errors.classify("tasks", error), "message": errors.describe(error)}
            for task, error in broken.items()
        }
        files.write_atomically(out / results.UNMEASURED, files.to_sorted_json(unmeasured))
    files.write_atomically(out / results.SCORED, files.to_json(scored))
    files.write_atomically(out / store.IMPORTED, files.to_sorted_json(list_imported()))
    results.write_results(out, measured, used)


@contextmanager
def record_launches(job: Mapping[str, Any], out: Path) -> Iterator[FirstBatch | None]:
    """Record which kernels the block launches, and write them to `kernels.json` at its end.

    Nothing is recorded for a CPU job that names no kernels.  The models have to be imported in the block: a
    function that a model imported from an extension earlier could not be counted.
    """
    if not job["kernels"] and not job["device"].startswith("cuda"):
        yield None
        return
    from scanproof.kernels.launches import profiler, watcher

    with watcher.observe() as observer:
        try:
            yield profiler.FirstBatch(observer)
        finally:
            files.write_atomically(out / results.KERNELS, files.to_json(observer.launches()))


def measure(
    request: Mapping[str, Any], reporter: ProgressWriter, profile: FirstBatch | None
) -> tuple[Mapping[str, Any], dict[str, Any], Callable[[], Scored], dict[str, Exception]]:
    """Load the checkpoint and the tasks, and evaluate.

    Returns:
        lm-eval's results; machine, packages and model (`describe_run`); a function that spot-checks the shared engine
        and returns how the requests were scored; and the tasks that could not be loaded.
    """
    import torch
    from lm_eval.api.registry import get_model

    job = request["job"]
    if request["models"]:
        importlib.import_module(request["models"]).register()
    reporter.stage("model_class")
    get_model(job["model"])
    reporter.stage("checkpoint")
    arguments = dict(request["model_args"])
    commit = request["commit"]
    if request["revision"] is not None:
        arguments["pretrained"], commit = snapshot(job["pretrained"], request["revision"])
        refuse_ways_out(Path(arguments["pretrained"]), "model", remote_code=job["trust_remote_code"] is not None)
    with require_complete_checkpoint():
        model = get_model(job["model"]).create_from_arg_obj(
            arguments, {"batch_size": job["batch_size"], "device": job["device"]}
        )
    check_tokenizer(model, job["pretrained"])
    describe_scoring = use_shared_engine(model) if request["engine"] == "shared" else Scored
    model.set_cache_hook(CountingHook(reporter.advance, profile))
    reporter.stage("tasks")
    manager, loaded, broken = load_tasks(request)
    count_requests(model, reporter, profile)
    reporter.stage("prompts")
    measured = evaluate_tasks(model, job, loaded, manager, request["bootstrap_iters"])
    return measured, describe_run(model, job, commit, torch), describe_scoring, broken


def use_shared_engine(model: Any) -> Callable[[], Scored]:
    """Let the shared engine score this model's requests, if it supports the model class.

    Returns:
        A function to call after the evaluation: it spot-checks the engine and returns how the requests were scored.
    """
    from scanproof import scoring

    try:
        tally = scoring.install(model, say=print)
    except scoring.Unsupported as error:
        reason = str(error)
        print(f"scored plain: {reason}")
        return lambda: Scored(because=reason)

    def describe_scoring() -> Scored:
        if tally.declined:
            return Scored(because=tally.declined)
        spot = scoring.spot_check(model, tally)
        counts = {field.name: getattr(tally, field.name) for field in fields(Scoring) if field.name != "spot"}
        return Scored(engine="shared", scoring=Scoring(**{**counts, "notes": tuple(tally.notes), "spot": spot}))

    return describe_scoring


def count_requests(model: Any, reporter: ProgressWriter, profile: FirstBatch | None = None) -> None:
    """Report the number of requests when lm-eval passes them to the model, and profile their first batch."""
    for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        answer = getattr(model, kind)

        def counted(requests: list[Any], *args: Any, _answer: Any = answer, **options: Any) -> Any:
            reporter.stage("requests", total=len(requests))
            if profile is not None:
                profile.start()
            answers = _answer(requests, *args, **options)
            if profile is not None:
                profile.stop()
            reporter.stage("scores")
            return answers

        setattr(model, kind, counted)


def describe_run(model: Any, job: Mapping[str, Any], commit: str | None, torch: Any) -> dict[str, Any]:
    """Machine, packages, and the settings that the model really used."""
    network = getattr(model, "model", None)
    weights: dict[str, int] = {}
    places: dict[str, int] = {}
    for parameter in network.parameters() if isinstance(network, torch.nn.Module) else ():
        name = str(parameter.dtype).removeprefix("torch.")
        weights[name] = weights.get(name, 0) + parameter.numel()
        kind = parameter.device.type
        places[kind] = places.get(kind, 0) + parameter.numel()
    cuda = job["device"].startswith("cuda") and torch.cuda.is_available()
    return {
        **environment.snapshot(),
        "threads": torch.get_num_threads(),
        "device": str(getattr(model, "device", job["device"])),
        "device_name": torch.cuda.get_device_name() if cuda else None,
        "cuda": torch.version.cuda,
        "commits": machine.source_commits(),
        "weights_dtype": weights,
        "weights_device": places,
        "model_class": f"{type(model).__module__}.{type(model).__qualname__}",
        "network_class": f"{type(network).__module__}.{type(network).__qualname__}",
        "max_length": getattr(model, "max_length", None),
        "probe_tokens": probe_tokens(model),
        "checkpoint_commit": commit,
        "removed_layers": str(removed) if (removed := getattr(model, "removed", None)) else None,
        "peak_memory_bytes": peak_memory_bytes(),
        "peak_device_memory_bytes": torch.cuda.max_memory_allocated() if cuda else None,
    }


def list_imported() -> dict[str, list[str]]:
    """What this process has imported: names of packages and modules, and files of modules and of native libraries.

    Code of the checkpoint is left out: it is a copy of files that the fingerprint covers.
    """
    files = {str(getattr(module, "__file__", None) or "") for module in list(sys.modules.values())}
    maps = Path("/proc/self/maps")
    if maps.is_file():
        lines = (line.split(maxsplit=5) for line in maps.read_text(errors="surrogateescape").splitlines())
        files |= {fields[5] for fields in lines if len(fields) == 6 and "x" in fields[1]}
    copied = os.environ.get("HF_MODULES_CACHE", "")
    kept = [path for path in files if Path(path).is_file() and not (copied and path.startswith(copied))]
    names = {name.partition(".")[0] for name in list(sys.modules)}
    return {"files": sorted(str(Path(path).absolute()) for path in kept), "names": sorted(names)}


def probe_tokens(model: Any) -> list[int] | None:
    """Tokens that the model class makes of a fixed text; they show when the BOS token or the tokenizer changed."""
    encode = getattr(model, "tok_encode", None)
    return None if encode is None else [int(token) for token in encode(PROBE)]


def peak_memory_bytes() -> int:
    """Largest resident size of this process, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def end_with_parent() -> None:
    """Kill this process and its children when standard input closes; the parent keeps it open while it lives."""

    def watch() -> None:
        while os.read(0, 1):
            continue
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


if __name__ == "__main__":
    if os.environ.get("SCANPROOF_WORKER") == "1":
        end_with_parent()
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # All results are on disk.  Shutting down torch and CUDA takes long, and can hang or crash.
    os._exit(status)
