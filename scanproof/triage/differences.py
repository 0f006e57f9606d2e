"""Where two evaluations differ outside of their answers, sorted by what such a difference can do.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
SECTIONS = frozenset({
    "job", "engine", "datasets", "tasks", "checkpoints", "code", "packages", "variables", "machine", "imports",
    "startup", "imported", "files",
})  # fmt: skip
"""Sections of a fingerprint's parts that are compared by themselves, here or (`job`, `engine`) by what a run says."""


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
    differences = [
        *of_jobs(before, now),
        *of_engines(before, now),
        *of_environments(before.environment, now.environment),
    ]
    if before.parts is not None and now.parts is not None:
        differences += of_parts(before.parts, now.parts)
    kept: dict[str, Difference] = {}
    for difference in differences:
        kept.setdefault(difference.what, difference)
    return list(kept.values())


def of_jobs(before: Side, now: Side) -> list[Difference]:
    """What was asked to run."""
    if before.job is None or now.job is None:
        return []
    old, new = asdict(before.job), asdict(now.job)
    groups = {"dtype": "dtype", "num_fewshot": "shots", "max_length": "tokens"}
    differences = [
        Difference(groups.get(name, "job"), f"job {name}", shown(old[name]), shown(new[name]))
        for name in old
        if name not in WHOSE_JOB and old[name] != new[name]
    ]
    first, second = dict(before.job.model_args), dict(now.job.model_args)
    for name in sorted({*first, *second}):
        if first.get(name) != second.get(name):
            group = "tokens" if name in TOKENS else "job"
            differences.append(Difference(group, f"model_args {name}", shown(first.get(name)), shown(second.get(name))))
    return differences


def of_engines(before: Side, now: Side) -> list[Difference]:
    """What scored the requests."""
    if None in (before.engine, now.engine) or before.engine == now.engine:
        return []
    return [Difference("computes", "engine", shown(before.engine), shown(now.engine))]


def of_environments(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Versions, devices, and what the model really ran with."""
    differences = []
    old, new = before.get("packages") or {}, now.get("packages") or {}
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name]:
            differences.append(Difference(group_of(name), name, shown(old[name]), shown(new[name])))
    groups = {
        "weights_dtype": "dtype", "weights_device": "computes", "max_length": "tokens", "probe_tokens": "tokens",
        "model_class": "job",
        "network_class": "job", "checkpoint_commit": "weights", "removed_layers": "job", "gpus": "computes",
        "device_name": "computes", "cuda": "computes", "device": "job", "commits": "computes",
    }  # fmt: skip
    for name, group in groups.items():
        if name in before and name in now and before[name] != now[name]:
            first, second = before[name], now[name]
            if name in ("weights_dtype", "weights_device"):
                first, second = ", ".join(first), ", ".join(second)
            if first != second:
                differences.append(Difference(group, name.replace("_", " "), shown(first), shown(second)))
    for name in ("python", "platform", "machine", "threads"):
        if name in before and name in now and before[name] != now[name]:
            differences.append(Difference("other", name, shown(before[name]), shown(now[name])))
    return differences


def of_parts(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Files and versions that a fingerprint names.

    Datasets and definitions of tasks that only one of them has belong to another choice of tasks (`-k`), and tell
    nothing.
    """
    differences: list[Difference] = []
    for section in ("datasets", "tasks"):
        group = "dataset" if section == "datasets" else "definition"
        old, new = before.get(section) or {}, now.get(section) or {}
        for name in sorted(old.keys() & new.keys()):
            differences += [
                Difference(group, f"{section} {path}", "", "") for path in leaves(old[name], new[name], name)
            ]
    for name, old, new in shared(before, now, "checkpoints"):
        for path in leaves(old, new, name):
            group = "tokens" if "token" in path.rpartition(" / ")[2] else "weights"
            differences.append(Difference(group, f"checkpoint {path}", "", ""))
    for name, old, new in shared(before, now, "code"):
        if name == SHARED_ENGINE and None in (old, new):
            # Only one of them was scored by it, which `of_engines` says.
            continue
        differences += [Difference("own code", f"code of {path}", "", "") for path in leaves(old, new, name)]
    for name, old, new in shared(before, now, "packages"):
        if old != new:
            versions = version(old), version(new)
            # The same version, and other files: installed again, from somewhere else.
            told = ("", "") if versions[0] == versions[1] else versions
            differences.append(Difference(group_of(name), name, *told))
    for name in sorted({*(before.get("variables") or {}), *(now.get("variables") or {})}):
        first, second = ((side.get("variables") or {}).get(name) for side in (before, now))
        if first != second:
            differences.append(Difference("computes", f"environment variable {name}", shown(first), shown(second)))
    for name, old, new in shared(before, now, "machine"):
        if old != new:
            differences.append(Difference("computes" if name == "gpus" else "other", name, shown(old), shown(new)))
    return [*differences, *of_contents(before, now), *of_other_sections(before, now)]


def of_contents(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    """What was imported, run at the start, or read as an argument: files that differ, whatever their version says."""
    for name, old, new in shared(before, now, "imports", only_in_both=True):
        if old != new:
            # By the name of its distribution: where the version differs as well, that is said and not this.
            yield Difference("harness" if name == "lm_eval" else "computes", name.replace("_", "-"), "", "")
    for section, group in {"startup": "computes", "imported": "computes", "files": "job"}.items():
        for name, old, new in shared(before, now, section, only_in_both=True):
            # What one worker alone imported belongs to another choice of tasks or to another engine.
            if section != "imported" or None not in (old, new):
                yield from (Difference(group, f"{section} {path}", "", "") for path in leaves(old, new, name))


def of_other_sections(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    """What else a fingerprint names: nothing that differs there goes without a word."""
    for section in sorted((before.keys() & now.keys()) - SECTIONS):
        for path in leaves(before[section], now[section], section):
            yield Difference("other", path, "", "")


def shared(
    before: Mapping[str, Any], now: Mapping[str, Any], section: str, *, only_in_both: bool = False
) -> Iterable[tuple[str, Any, Any]]:
    """Name, old and new of everything in a section of either; of none where older parts lack a section of both."""
    if only_in_both and not (section in before and section in now):
        return []
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
