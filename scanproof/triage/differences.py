"""Where two evaluations differ outside of their answers, sorted by what such a difference can do.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scanproof.triage.evidence import Side

COMPUTES = ("torch", "triton", "mamba-ssm", "causal-conv1d", "flash-attn", "transformers", "numpy", "accelerate")
"""Distributions whose arithmetic the numbers go through."""
HARNESS = "lm-eval"
SHARED_ENGINE = "scanproof/scoring"
"""The code that only shared scoring reads."""
TOKENS = (
    "add_bos_token",
    "prefix_token_id",
    "tokenizer",
    "add_special_tokens",
    "truncation",
    "max_length",
    "logits_cache",
)
"""Arguments of model classes that say how text becomes tokens."""
WHOSE_JOB = ("name", "suite", "size", "needs_remote_code", "trust_remote_code", "tasks", "kernels", "model_args")
"""Fields that move no number, or that are compared one by one elsewhere."""


@dataclass(frozen=True)
class Difference:
    """One thing that differs."""

    group: str
    """`dtype`, `weights`, `tokens`, `shots`, `dataset`, `definition`, `harness`, `computes`, `own code`, `job`, or
    `other`."""
    what: str
    before: str
    now: str

    def __str__(self) -> str:
        if not self.before and not self.now:
            return f"{self.what}: changed"
        return f"{self.what}: {self.before or 'none'} -> {self.now or 'none'}"


def between(before: Side, now: Side) -> list[Difference]:
    """Every difference that is known of, each once."""
    found = [*of_jobs(before, now), *of_engines(before, now), *of_environments(before.environment, now.environment)]
    if before.parts is not None and now.parts is not None:
        found += of_parts(before.parts, now.parts)
    kept: dict[str, Difference] = {}
    for each in found:
        kept.setdefault(each.what, each)
    return list(kept.values())


def of_jobs(before: Side, now: Side) -> list[Difference]:
    """What was asked to run."""
    if before.job is None or now.job is None:
        return []
    old, new = asdict(before.job), asdict(now.job)
    groups = {"dtype": "dtype", "num_fewshot": "shots", "max_length": "tokens"}
    found = [
        Difference(groups.get(name, "job"), f"job {name}", shown(old[name]), shown(new[name]))
        for name in old
        if name not in WHOSE_JOB and old[name] != new[name]
    ]
    first, second = dict(before.job.model_args), dict(now.job.model_args)
    for name in sorted({*first, *second}):
        if first.get(name) != second.get(name):
            group = "tokens" if name in TOKENS else "job"
            found.append(Difference(group, f"model_args {name}", shown(first.get(name)), shown(second.get(name))))
    return found


def of_engines(before: Side, now: Side) -> list[Difference]:
    """What scored the requests."""
    if None in (before.engine, now.engine) or before.engine == now.engine:
        return []
    return [Difference("computes", "engine", shown(before.engine), shown(now.engine))]


def of_environments(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Versions, devices, and what the model really ran with."""
    found = []
    old, new = before.get("packages") or {}, now.get("packages") or {}
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name]:
            found.append(Difference(group_of(name), name, shown(old[name]), shown(new[name])))
    groups = {
        "weights_dtype": "dtype", "max_length": "tokens", "probe_tokens": "tokens", "model_class": "job",
        "network_class": "job", "checkpoint_commit": "weights", "removed_layers": "job", "gpus": "computes",
        "device_name": "computes", "cuda": "computes", "device": "job", "commits": "computes",
    }  # fmt: skip
    for name, group in groups.items():
        if name in before and name in now and before[name] != now[name]:
            first, second = before[name], now[name]
            if name == "weights_dtype":
                first, second = ", ".join(first), ", ".join(second)
            if first != second:
                found.append(Difference(group, name.replace("_", " "), shown(first), shown(second)))
    for name in ("python", "platform", "machine", "threads"):
        if name in before and name in now and before[name] != now[name]:
            found.append(Difference("other", name, shown(before[name]), shown(now[name])))
    return found


def of_parts(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Files and versions that a fingerprint names.

    Datasets and definitions of tasks that only one of them has belong to another choice of tasks (`-k`), and tell
    nothing.
    """
    found: list[Difference] = []
    for section in ("datasets", "tasks"):
        group = "dataset" if section == "datasets" else "definition"
        old, new = before.get(section) or {}, now.get(section) or {}
        for name in sorted(old.keys() & new.keys()):
            found += [Difference(group, f"{section} {path}", "", "") for path in leaves(old[name], new[name], name)]
    for name, old, new in shared(before, now, "checkpoints"):
        for path in leaves(old, new, name):
            group = "tokens" if "token" in path.rpartition(" / ")[2] else "weights"
            found.append(Difference(group, f"checkpoint {path}", "", ""))
    for name, old, new in shared(before, now, "code"):
        if name == SHARED_ENGINE and None in (old, new):
            # Only one of them was scored by it, which `of_engines` says.
            continue
        group = "harness" if name == "lm_eval" else "own code" if name.startswith("scanproof/") else "computes"
        found += [Difference(group, f"code of {path}", "", "") for path in leaves(old, new, name)]
    for name, old, new in shared(before, now, "packages"):
        if old != new:
            versions = version(old), version(new)
            # The same version, and other files: installed again, from somewhere else.
            told = ("", "") if versions[0] == versions[1] else versions
            found.append(Difference(group_of(name), name, *told))
    for name in sorted({*(before.get("variables") or {}), *(now.get("variables") or {})}):
        first, second = ((side.get("variables") or {}).get(name) for side in (before, now))
        if first != second:
            found.append(Difference("computes", f"environment variable {name}", shown(first), shown(second)))
    for name, old, new in shared(before, now, "machine"):
        if old != new and name in ("cpu", "gpus"):
            found.append(Difference("computes" if name == "gpus" else "other", name, shown(old), shown(new)))
    return found


def shared(before: Mapping[str, Any], now: Mapping[str, Any], section: str) -> Iterable[tuple[str, Any, Any]]:
    """Name, old and new of everything in a section of either."""
    old, new = before.get(section) or {}, now.get(section) or {}
    return [(name, old.get(name), new.get(name)) for name in sorted({*old, *new})]


def leaves(old: Any, new: Any, prefix: str) -> list[str]:
    """Paths at which two nested mappings differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = sorted({*old, *new})
        return [path for name in names for path in leaves(old.get(name), new.get(name), deeper(prefix, name))]
    return [] if old == new else [prefix]


def deeper(prefix: str, name: str) -> str:
    return prefix if name == "files" else f"{prefix} / {name}"


def group_of(distribution: str) -> str:
    """What a distribution's version can do."""
    if distribution == HARNESS:
        return "harness"
    return "computes" if distribution in COMPUTES else "other"


def version(release: Any) -> str:
    return str(release["version"]) if isinstance(release, Mapping) else ""


def shown(value: Any) -> str:
    """A value in a line of evidence."""
    if value is None:
        return ""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
