"""Everything that a job's numbers depend on, as one key and as readable parts."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from scanproof import environment
from scanproof.evaluation import command_line, file_digests, task_files
from scanproof.evaluation.hub import mirror
from scanproof.evaluation.imported import Imports
from scanproof.models import checkpoint_files
from scanproof.numbers.values import EvalJob
from scanproof.numbers.verdict.engines import EngineName

OWN_CODE = (
    "models", "kernels", "evaluation/worker", "evaluation/results.py", "evaluation/right_answers.py",
    "evaluation/request.py", "evaluation/command_line.py", "evaluation/task_files.py",
)  # fmt: skip
"""Files and folders of scanproof that can change a number, relative to the package."""
RELEASES = (
    "torch", "transformers", "datasets", "tokenizers", "numpy", "triton", "safetensors", "accelerate",
    "pyarrow", "Jinja2", "mamba-ssm", "causal-conv1d", "flash-attn", "sentencepiece",
)  # fmt: skip
"""Distributions of which version and file list (RECORD) are named, so that a change of release can be read.

What identifies their content is `scanproof.evaluation.imported`.
"""
VARIABLES = (
    "ACCELERATE_", "ATEN_", "CAUSAL_CONV1D_", "CUBLAS_", "CUDA_LAUNCH_BLOCKING", "CUDA_VISIBLE_DEVICES",
    "CUDNN_", "DISABLE_KERNEL_MAPPING", "DNNL_", "FLASH_", "FLA_", "GLIBC_TUNABLES", "KMP_", "LD_LIBRARY_PATH",
    "LD_PRELOAD", "MAMBA_", "MKL_", "NVIDIA_TF32_OVERRIDE", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTORCH_", "TORCH",
    "TRANSFORMERS_", "TRITON_", "USE_HUB_KERNELS", "XLA_FLAGS",
)  # fmt: skip
"""Beginnings of the names of environment variables that can change a floating-point result."""
STATE_SPACES = ("mamba_ssm", "depth_pruned_mamba_ssm")
"""Model classes that load a checkpoint of state-spaces, which has no tokenizer of its own."""
MAMBA_TOKENIZER = "EleutherAI/gpt-neox-20b"
"""lm-eval's `mamba_ssm` class reads this tokenizer when the job names none (lm_eval/models/mamba_lm.py)."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Fingerprint:
    """Digest of everything that can change a job's numbers."""

    key: str
    """sha256 over the parts, 64 hex digits."""
    parts: dict[str, Any]
    """What the key is computed from: mappings by name, file digests by path."""
    unknown: tuple[str, ...]
    """What could not be identified.  If this is not empty, the key is valid for one session only."""


def take_fingerprint(
    job: EvalJob,
    *,
    mirror_folder: Path | None,
    selection: task_files.Selection,
    index: task_files.TaskFiles,
    digests: file_digests.FileDigests,
    imports: Imports,
    session: str,
    engine: EngineName = "plain",
) -> Fingerprint:
    """Identify everything that can change the numbers of `job`.

    With a mirror, checkpoints and datasets are identified by content.  Without one, by their commit on the hub.

    Raises:
        MirrorError: the mirror does not hold a checkpoint or dataset.
        OSError: a file cannot be read.
    """
    unknown: list[str] = [f"data of {task}" for task in selection.opaque]
    parts: dict[str, Any] = {
        "job": job_fields(job),
        "checkpoints": {
            name: _identify_repository(name, "model", revision, mirror_folder, digests, unknown)
            for name, revision in list_checkpoints(job, mirror_folder)
        },
        "datasets": {
            name: _identify_repository(name, "dataset", None, mirror_folder, digests, unknown)
            for name in selection.datasets
        },
        "files": {
            **{name: digests.digest(path) for name, path in command_line.argument_files(job).items()},
            **{name: digests.tree(path) for name, path in _argument_folders(job).items()},
        },
        "tasks": _digest_definitions(selection, index, digests),
        "code": _digest_code(digests, engine),
        "imports": imports.packages(digests),
        "startup": imports.startup(digests),
        "engine": engine,
        "packages": {name: _identify_release(name) for name in RELEASES},
        "machine": _identify_machine(job.device, unknown),
        "variables": _relevant_variables(),
    }
    keyed = {**parts, "session": session} if unknown else parts
    canonical = json.dumps(keyed, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return Fingerprint(hashlib.sha256(canonical.encode()).hexdigest(), parts, tuple(unknown))


def _relevant_variables() -> dict[str, str]:
    """The environment variables that can change a number."""
    return {name: value for name, value in sorted(environment_variables().items()) if name.startswith(VARIABLES)}


def environment_variables() -> dict[str, str]:
    """The environment variables.

    Another thread may remove one meanwhile, as pytest does at the end of each test; `dict(os.environ)` would raise.
    """
    values = {name: os.environ.get(name) for name in os.environ}
    return {name: value for name, value in values.items() if value is not None}


def job_fields(job: EvalJob) -> dict[str, Any]:
    """The fields of a job that can change its numbers.

    Its name, its suite, its size and the reason why remote code may run cannot.
    """
    fields = asdict(job)
    for irrelevant in ("name", "suite", "size", "needs_remote_code"):
        del fields[irrelevant]
    fields["trust_remote_code"] = job.trust_remote_code is not None
    fields["model_args"] = [[name, type(value).__name__, value] for name, value in job.model_args]
    fields["tasks"] = sorted(job.tasks)
    fields["kernels"] = sorted(job.kernels)
    return fields


def _argument_folders(job: EvalJob) -> dict[str, Path]:
    """Arguments of the model class that name a folder by its absolute path."""
    values = ((name, Path(value)) for name, value in job.model_args if isinstance(value, str) and value[:1] == "/")
    return {name: path for name, path in values if path.is_dir()}


def list_checkpoints(job: EvalJob, mirror_folder: Path | None) -> tuple[tuple[str, str], ...]:
    """Hub names and revisions of the model repositories that a job reads: its weights, and a separate tokenizer."""
    named = dict(job.model_args).get("tokenizer")
    needed = [(job.pretrained, job.revision)]
    if isinstance(named, str):
        needed.append((named, "main"))
    elif job.model in STATE_SPACES and not _has_tokenizer(job.pretrained, mirror_folder):
        needed.append((MAMBA_TOKENIZER, "main"))
    return tuple(dict.fromkeys(needed))


def list_changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Where two sets of parts differ, as readable paths: `checkpoints / org/name / config.json: changed`."""
    differences: list[str] = []
    for name in sorted({*old, *new}):
        where = f"{prefix} / {name}" if prefix else name
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            differences.extend(list_changes(before, after, where))
        elif name not in old or name not in new:
            differences.append(f"{where}: {'new' if name not in old else 'gone'}")
        elif before != after:
            short = all(len(str(side)) <= 40 for side in (before, after))
            differences.append(f"{where}: {before} -> {after}" if short else f"{where}: changed")
    return differences


def _has_tokenizer(name: str, mirror_folder: Path | None) -> bool:
    folder = mirror_folder / name if mirror_folder else Path(name)
    return any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"))


def _identify_repository(
    name: str,
    kind: checkpoint_files.RepoType,
    revision: str | None,
    folder: Path | None,
    digests: file_digests.FileDigests,
    unknown: list[str],
) -> dict[str, Any]:
    """Identity of one repository: the digests of its files where they are local, else its commit on the hub.

    A repository without a commit is added to `unknown`.
    """
    if folder is not None:
        served = mirror.resolve(folder, name, kind, revision)
        return {"files": digests.tree(served.folder, skip=_is_prose if kind == "model" else lambda _: False)}
    if Path(name).is_absolute() and Path(name).is_dir():
        return {"files": digests.tree(Path(name), skip=_is_prose)}
    # A branch may move on the hub between two sessions, so only a full commit identifies the files.
    commit = revision if revision and _COMMIT.fullmatch(revision) else None
    if commit is None:
        unknown.append(f"commit of the {kind} {name}")
    return {"commit": commit}


def _digest_definitions(
    selection: task_files.Selection, index: task_files.TaskFiles, digests: file_digests.FileDigests
) -> dict[str, str]:
    """Digests of the definition files, of the files they include, and of all other files in their folders."""
    files: set[Path] = {path for folder in selection.folders for path in file_digests.files_below(folder)}
    for name in (*selection.leaves, *selection.groups):
        files.update(task_files.read_definition(index.root / index.files[name])[1])
    return {os.path.relpath(path, index.root): digests.digest(path) for path in sorted(files)}


def _digest_code(digests: file_digests.FileDigests, engine: EngineName) -> dict[str, Any]:
    """Digests of scanproof's own code that computes, by file."""
    digests_by_name: dict[str, Any] = {}
    own = Path(__file__).parents[1]
    for name in (*OWN_CODE, *(("scoring",) if engine == "shared" else ())):
        path = own / name
        if not path.exists():
            raise FileNotFoundError(f"{path} is named in OWN_CODE of {__name__} and does not exist")
        digests_by_name[f"scanproof/{name}"] = digests.tree(path) if path.is_dir() else digests.digest(path)
    return digests_by_name


def _identify_release(name: str) -> dict[str, str] | None:
    """Version of a distribution, and the digest of the file list that its installer wrote; None: not installed."""
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    record = distribution.read_text("RECORD") or ""
    return {"version": distribution.version, "record": hashlib.sha256(record.encode()).hexdigest()}


def _identify_machine(device: str, unknown: list[str]) -> dict[str, Any]:
    """Identity of the machine; a GPU job without a GPU that the driver names is added to `unknown`."""
    machine: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.machine(),
        "cpu": _cpu_name(),
        "threads": environment.usable_cpus(),
    }
    if device.startswith("cuda"):
        machine["gpus"] = [{"name": g.get("name"), "driver": g.get("driver_version")} for g in environment.gpus()]
        if not machine["gpus"]:
            unknown.append("GPU")
    return machine


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Processor")):
                return line.partition(":")[2].strip()
    return platform.processor()


def _is_prose(path: Path) -> bool:
    # `hub.bounds` refuses an index of shards that names such a file.
    return path.suffix in (".md", ".png", ".jpg")
