"""Print a job as a command line of lm-eval, for people who want to repeat it by hand."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from scanproof.numbers.values import EvalJob, Scalar


def command(job: EvalJob, mirror: Path | None, tasks: Sequence[str]) -> str:
    """A shell line that repeats the job.

    It calls `lm_eval` if lm-eval knows the model class, else `scanproof lm-eval`, which adds scanproof's classes.

    Args:
        job: the job.
        mirror: folder that serves models and datasets; None for the hub.
        tasks: names of tasks and groups, without members of the named groups.
    """
    arguments: dict[str, Scalar] = {"pretrained": job.pretrained, **model_args(job)}
    if mirror is None:
        arguments["revision"] = job.revision
    words = [
        *program(job), "run", "--model", job.model,
        "--model_args", ",".join(f"{name}={value}" for name, value in arguments.items()),
        "--tasks", ",".join(tasks), "--num_fewshot", str(job.num_fewshot),
        "--batch_size", str(job.batch_size), "--device", job.device,
        "--seed", f"0,{job.seed},{job.seed},{job.seed}",
    ]  # fmt: skip
    if job.limit is not None:
        words += ["--limit", str(job.limit)]
    if job.trust_remote_code is not None:
        words += ["--trust_remote_code"]
    line = shlex.join(words)
    if mirror is not None:
        folder = shlex.quote(str(mirror.resolve()))
        line = f"cd {folder} && HF_HUB_OFFLINE=1 HF_DATASETS_CACHE=$(mktemp -d) {line}"
    note = _note(job)
    return f"{line}  # {note}" if note else line


def model_args(job: EvalJob) -> dict[str, Scalar]:
    """Arguments of the model class, without the name of the checkpoint."""
    arguments: dict[str, Scalar] = {"dtype": job.dtype, **dict(job.model_args)}
    # Absolute paths, because the worker and the printed command change the working directory.
    arguments.update((name, str(path)) for name, path in argument_files(job).items())
    if job.max_length is not None:
        arguments["max_length"] = job.max_length
    return arguments


def argument_files(job: EvalJob) -> dict[str, Path]:
    """Arguments of the model class that name an existing file: name of the argument -> absolute path."""
    values = ((name, Path(value).absolute()) for name, value in job.model_args if isinstance(value, str))
    return {name: path for name, path in values if path.is_file()}


def program(job: EvalJob) -> tuple[str, ...]:
    """The program that runs the job.  lm-eval's own `mamba_ssm` class needs the GPU package."""
    known = job.model in ("hf", "hf-auto", "huggingface") or (job.model == "mamba_ssm" and job.device != "cpu")
    return ("lm_eval",) if known else ("scanproof", "lm-eval")


def _note(job: EvalJob) -> str:
    """What plain lm-eval does differently from the job; empty if nothing."""
    if job.model == "mamba_ssm" and job.device != "cpu":
        return "lm-eval's own mamba_ssm class ignores the revision and loads the checkpoint's default branch"
    return ""
