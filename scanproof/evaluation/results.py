"""What an evaluation leaves on disk: measurements and one line per document, made from lm-eval's results.

`samples/<task>.jsonl` holds what the model answered; `samples/<task>.texts.jsonl.gz` what it was asked, which stays
the same from night to night and is kept once (`scanproof.evaluation.store.add`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanproof import files
from scanproof.evaluation import store
from scanproof.kernels.launches.launched import Launches
from scanproof.numbers.verdict.engines import Engine, Scoring
from scanproof.numbers.verdict.measurement import Measurement

KERNELS = "kernels.json"
"""What was launched, in a worker's output and in the store."""
SCORED = "scored.json"
"""Which engine scored, in a worker's output and in the store."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Which engine scored an evaluation, and what it ran."""

    engine: Engine = "plain"
    because: str | None = None
    """Why plain, where shared was asked for."""
    scoring: Scoring | None = None


def write(out: Path, results: Mapping[str, Any], used: Mapping[str, Any]) -> None:
    """Write samples, environment and results; `results.json` comes last and says that all is there."""
    partial = out / "samples.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for task, samples in results["samples"].items():
        lines = (json.dumps(sample_line(sample), allow_nan=False) for sample in samples)
        (partial / f"{task}.jsonl").write_text("".join(f"{line}\n" for line in lines))
        (partial / f"{task}{store.TEXTS}").write_bytes(texts(samples))
    partial.rename(out / "samples")
    files.write_atomically(out / "environment.json", store.to_json(used))
    files.write_atomically(out / "results.json", store.to_json({"measurements": measurements(results)}))


def measurements(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every metric of every task and group, as fields of a Measurement."""
    found = []
    for task, metrics in results["results"].items():
        prompts = prompts_hash(results["samples"].get(task))
        for key, value in metrics.items():
            name, comma, chosen = key.partition(",")
            if not comma or name.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = metrics.get(f"{name}_stderr,{chosen}")
            found.append({
                "task": task,
                "metric": name if chosen == "none" else f"{name},{chosen}",
                "value": number(value),
                "stderr": number(stderr) if isinstance(stderr, int | float) else None,
                "n_samples": int(metrics["sample_len"]),
                "num_fewshot": shots(results, task),
                "task_version": str(results["versions"].get(task)),
                "prompts_hash": prompts,
            })  # fmt: skip
    return found


def shots(results: Mapping[str, Any], name: str) -> int | None:
    """Few-shot examples of a task, or of a group whose tasks all had the same number."""
    if name in results["n-shot"]:
        return int(results["n-shot"][name])
    found = {shots(results, member) for member in results.get("group_subtasks", {}).get(name, ())}
    return found.pop() if len(found) == 1 else None


def read_measurement(fields: Mapping[str, Any]) -> Measurement:
    """A Measurement from its stored fields; what is not finite is stored as text."""
    stderr = fields["stderr"]
    numbers = {"value": float(fields["value"]), "stderr": None if stderr is None else float(stderr)}
    return Measurement(**{**fields, **numbers})


def read_launches(folder: Path) -> Launches | None:
    """What an evaluation launched; None for one on the CPU that needed no kernels."""
    path = folder / KERNELS
    return files.from_json(Launches, path.read_bytes()) if path.is_file() else None


def read_scored(folder: Path) -> Scored:
    """Which engine scored an evaluation."""
    path = folder / SCORED
    return files.from_json(Scored, path.read_bytes()) if path.is_file() else Scored()


def number(value: float) -> float | str:
    """A number as JSON can carry it: what is not finite becomes text that `float` reads."""
    return float(value) if math.isfinite(value) else str(float(value))


def prompts_hash(samples: list[dict[str, Any]] | None) -> str | None:
    """Digest of the prompt hashes of a task's documents, in their order."""
    if not samples:
        return None
    ordered = sorted(samples, key=lambda sample: sample["doc_id"])
    return hashlib.sha256("\n".join(sample["prompt_hash"] for sample in ordered).encode()).hexdigest()


def sample_line(sample: Mapping[str, Any]) -> dict[str, Any]:
    """What a later paired comparison needs of one document: identity, log-likelihoods, scores."""
    answers = [answer[0] if isinstance(answer, list) else answer for answer in sample["resps"]]
    pairs = [answer for answer in answers if isinstance(answer, tuple | list) and len(answer) == 2]
    target = sample["target"]
    return {
        "doc_id": sample["doc_id"],
        "doc_hash": sample["doc_hash"],
        "prompt_hash": sample["prompt_hash"],
        "target_hash": sample["target_hash"],
        "target": target if isinstance(target, int) else None,
        "loglikelihoods": [number(pair[0]) for pair in pairs],
        "is_greedy": [bool(pair[1]) for pair in pairs],
        "metrics": {name: plain(sample[name]) for name in sample["metrics"]},
    }


def texts(samples: list[dict[str, Any]]) -> bytes:
    """The questions of a task, gzipped JSON lines by document; the same questions make the same bytes."""
    first = {sample["doc_id"]: sample for sample in reversed(samples)}
    lines = (json.dumps(texts_line(first[number]), ensure_ascii=False) for number in sorted(first))
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), compresslevel=5, mtime=0)


def texts_line(sample: Mapping[str, Any]) -> dict[str, Any]:
    """What the model was given of one document: prompts, a single one where all requests share it, and what followed.

    A text that is scored from its first token on follows the empty prompt.
    """
    arguments = [("", *given) if len(given) == 1 else given for given in sample["arguments"]]
    prompts = [given[0] for given in arguments]
    return {
        "doc_id": sample["doc_id"],
        "prompts": prompts[:1] if len(set(prompts)) == 1 else prompts,
        "choices": [given[1] for given in arguments if isinstance(given[1], str)],
    }


def read_texts(path: Path) -> dict[int, dict[str, Any]]:
    """The lines of a texts file by doc_id; raises OSError or ValueError when it cannot be read."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return {line["doc_id"]: line for line in lines}


def plain(value: Any) -> Any:
    """A metric's per-document value as JSON; numpy scalars become numbers, tuples lists."""
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    item = value.item() if hasattr(value, "item") else value
    if isinstance(item, bool) or not isinstance(item, int | float):
        return item if isinstance(item, bool | str | None) else str(item)
    return number(item)
