"""The process that runs one evaluation: `python -m scanproof.worker request.json out/`.

Reads a request (written by `scanproof.evaluation`) and leaves files in `out/`: `results.json`,
`environment.json`, `samples/<task>.jsonl`, or `error.json`
(kind, message, traceback); `progress.jsonl` grows while it works.
It ends itself when its standard input closes, which is when the process that started it is gone.
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
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from scanproof import environment, failures, results, store
from scanproof.load_report import complete_checkpoint

REPORT_EVERY_SECONDS = 0.5
RANDOM_SEED = 0
"""lm-eval's own default for Python's random module; the other three generators take the job's seed."""


class Reporter:
    """Writes the stage and the number of finished requests, one JSON line each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started = time.monotonic()
        self._written = -math.inf
        self.name, self.done, self.total = "start", 0, 0

    def stage(self, name: str, total: int = 0) -> None:
        """Enter a stage; it is written at once."""
        self.name, self.done, self.total = name, 0, total
        self._write()

    def advance(self) -> None:
        """One more request is answered; written at most twice a second."""
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
    """Takes the place of lm-eval's cache hook, which is told of each answered request; caches nothing."""

    def __init__(self, advance: Callable[[], None]) -> None:
        self._advance = advance

    def add_partial(self, attr: str, req: Iterable[Any], res: Any) -> None:
        self._advance()


def main(arguments: list[str]) -> int:
    """Run the request; returns the exit code."""
    request = json.loads(Path(arguments[0]).read_bytes())
    out = Path(arguments[1]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    reporter = Reporter(out / "progress.jsonl")
    try:
        reporter.stage("start")
        if request["mirror"]:
            os.chdir(request["mirror"])
        run(request, out, reporter)
    except BaseException as error:
        report_failure(error, reporter.name, out)
        return 1
    return 0


def report_failure(error: BaseException, stage: str, out: Path) -> None:
    """Leave the kind, the message and the traceback for the parent."""
    (out / "traceback.txt").write_text("".join(traceback.format_exception(error)))
    told = {
        "kind": failures.classify(stage, error),
        "message": failures.describe(error),
        "stage": stage,
        "traceback": "traceback.txt",
    }
    store.write_atomically(out / "error.json", store.to_json(told))
    traceback.print_exception(error)


def run(request: Mapping[str, Any], out: Path, reporter: Reporter) -> None:
    """Load the checkpoint and the tasks, evaluate, write the results."""
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
    with complete_checkpoint():
        model = get_model(job["model"]).create_from_arg_obj(
            arguments, {"batch_size": job["batch_size"], "device": job["device"]}
        )
    model.set_cache_hook(CountingHook(reporter.advance))
    reporter.stage("tasks")
    manager, loaded = load_tasks(request)
    count_requests(model, reporter)
    reporter.stage("prompts")
    measured = evaluate(model, job, loaded, manager, request["bootstrap_iters"])
    reporter.stage("write")
    used = describe_run(model, job, commit, torch)
    results.write(out, measured, used)


def snapshot(name: str, revision: str) -> tuple[str, str]:
    """A local folder with the checkpoint at exactly one commit, from hub or cache; folder and commit."""
    from huggingface_hub import HfApi, snapshot_download

    from scanproof.prefetch import is_wanted

    try:
        info = HfApi().model_info(name, revision=revision, timeout=30)
    except Exception as error:
        if failures.classify("checkpoint", error) != "hub":
            raise
        return cached_snapshot(name, revision)
    files = [sibling.rfilename for sibling in info.siblings or ()]
    wanted = [file for file in files if is_wanted(file, files, "model")]
    commit = info.sha or revision
    return snapshot_download(name, revision=commit, allow_patterns=wanted), commit


def cached_snapshot(name: str, revision: str) -> tuple[str, str]:
    """The same from the hub's local cache alone, which may hold the safetensors only."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    from scanproof.prefetch import unwanted

    try:
        patterns = list(unwanted(tensors=False))
        folder = snapshot_download(name, revision=revision, local_files_only=True, ignore_patterns=patterns)
    except LocalEntryNotFoundError:
        patterns = list(unwanted(tensors=True))
        folder = snapshot_download(name, revision=revision, local_files_only=True, ignore_patterns=patterns)
        if not any(Path(folder).glob("*.safetensors")):
            raise
    return folder, Path(folder).name


def load_tasks(request: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """lm-eval's own task objects for the request, from the folders that define them.

    Raises RuntimeError when lm-eval understands the folders differently than the search that chose them.
    """
    from lm_eval.api.group import Group
    from lm_eval.tasks import TaskManager

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


def count_requests(model: Any, reporter: Reporter) -> None:
    """Report the number of requests when lm-eval hands them to the model."""
    for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        answer = getattr(model, kind)

        def counted(requests: list[Any], *args: Any, _answer: Any = answer, **options: Any) -> Any:
            reporter.stage("requests", total=len(requests))
            answers = _answer(requests, *args, **options)
            reporter.stage("scores")
            return answers

        setattr(model, kind, counted)


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


def describe_run(model: Any, job: Mapping[str, Any], commit: str | None, torch: Any) -> dict[str, Any]:
    """Machine, packages, and what the model really ran with."""
    network = getattr(model, "model", None)
    weights: dict[str, int] = {}
    for parameter in network.parameters() if isinstance(network, torch.nn.Module) else ():
        name = str(parameter.dtype).removeprefix("torch.")
        weights[name] = weights.get(name, 0) + parameter.numel()
    cuda = job["device"].startswith("cuda") and torch.cuda.is_available()
    return {
        **environment.snapshot(),
        "threads": torch.get_num_threads(),
        "device": str(getattr(model, "device", job["device"])),
        "device_name": torch.cuda.get_device_name() if cuda else None,
        "cuda": torch.version.cuda,
        "weights_dtype": weights,
        "model_class": f"{type(model).__module__}.{type(model).__qualname__}",
        "network_class": f"{type(network).__module__}.{type(network).__qualname__}",
        "max_length": getattr(model, "max_length", None),
        "checkpoint_commit": commit,
        "peak_memory_bytes": peak_memory(),
        "peak_device_memory_bytes": torch.cuda.max_memory_allocated() if cuda else None,
    }


def peak_memory() -> int:
    """Largest resident size of this process, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def end_with_parent() -> None:
    """Kill this process and its children when standard input, held open by the parent, closes."""

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
    # All results are on disk; tearing down torch and CUDA takes long and can hang or crash.
    os._exit(status)
