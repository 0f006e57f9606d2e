"""The files that an evaluation leaves: measurements, and one line per document, made from lm-eval's results.

`samples/<task>.jsonl` holds the model's answers, `samples/<task>.texts.jsonl.gz` the questions.  The questions are the
same every night, so the store keeps them once (`scanproof.evaluation.store.add`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanproof import files
from scanproof.evaluation import right_answers, store
from scanproof.kernels.launches.launched import Launches
from scanproof.numbers.verdict.engines import EngineName, Scoring
from scanproof.numbers.verdict.measurement import Measurement
from scanproof.record import Unmeasured

KERNELS = "kernels.json"
"""File of the kernels that were launched, in a worker's output and in the store."""
UNMEASURED = "unmeasured.json"
"""File of the tasks that could not be loaded, in a worker's output and in the store; absent where all were."""
SCORED = "scored.json"
"""File of the engine that scored, in a worker's output and in the store."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Which engine scored an evaluation, and how many tokens it ran."""

    engine: EngineName = "plain"
    because: str | None = None
    """Why plain scored although shared was asked for; None where it was not."""
    scoring: Scoring | None = None


def write_results(out: Path, results: Mapping[str, Any], used: Mapping[str, Any]) -> None:
    """Write samples, environment and results; `results.json` is written last and shows that all is there."""
    partial = out / "samples.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for task, samples in results["samples"].items():
        delimiter = str(results.get("configs", {}).get(task, {}).get("target_delimiter", " "))
        lines = (json.dumps(answer_line(sample, task, delimiter), allow_nan=False) for sample in samples)
        (partial / f"{task}.jsonl").write_text("".join(f"{line}\n" for line in lines))
        (partial / f"{task}{store.TEXTS}").write_bytes(compress_texts(samples))
    partial.rename(out / "samples")
    files.write_atomically(out / "environment.json", files.to_sorted_json(used))
    files.write_atomically(out / "results.json", files.to_sorted_json({"measurements": list_measurements(results)}))


def list_measurements(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every metric of every task and group, as fields of a Measurement."""
    rows = []
    for task, metrics in results["results"].items():
        prompts = hash_prompts(results["samples"].get(task))
        for key, value in metrics.items():
            name, comma, chosen = key.partition(",")
            if not comma or name.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = metrics.get(f"{name}_stderr,{chosen}")
            rows.append({
                "task": task,
                "metric": name if chosen == "none" else f"{name},{chosen}",
                "value": number(value),
                "stderr": number(stderr) if isinstance(stderr, int | float) else None,
                "n_samples": int(metrics["sample_len"]),
                "num_fewshot": count_shots(results, task),
                "task_version": str(results["versions"].get(task)),
                "prompts_hash": prompts,
            })  # fmt: skip
    return rows


def count_shots(results: Mapping[str, Any], name: str) -> int | None:
    """Few-shot examples of a task or group; None for a group whose tasks had different numbers of them."""
    if name in results["n-shot"]:
        return int(results["n-shot"][name])
    counts = {count_shots(results, member) for member in results.get("group_subtasks", {}).get(name, ())}
    return counts.pop() if len(counts) == 1 else None


def read_measurement(fields: Mapping[str, Any]) -> Measurement:
    """A Measurement from its stored fields; NaN and infinity are stored as text."""
    stderr = fields["stderr"]
    numbers = {"value": float(fields["value"]), "stderr": None if stderr is None else float(stderr)}
    return files.from_fields(Measurement, {**fields, **numbers})


def read_launches(folder: Path) -> Launches | None:
    """The kernels that an evaluation launched; None for an evaluation on the CPU that needed none."""
    path = folder / KERNELS
    return files.read_record(Launches, path) if path.is_file() else None


def read_scored(folder: Path) -> Scored:
    """Which engine scored an evaluation."""
    path = folder / SCORED
    return files.read_record(Scored, path) if path.is_file() else Scored()


def read_unmeasured(folder: Path) -> dict[str, Unmeasured]:
    """The single tasks that a worker could not load, and why."""
    path = folder / UNMEASURED
    if not path.is_file():
        return {}
    content: dict[str, dict[str, Any]] = files.read_json(path)
    return {task: Unmeasured(**fields) for task, fields in content.items()}


def number(value: float) -> float | str:
    """A number for JSON, which has no NaN and no infinity: they become text that `float` reads."""
    return float(value) if math.isfinite(value) else str(float(value))


def hash_prompts(samples: list[dict[str, Any]] | None) -> str | None:
    """Digest of the prompt hashes of a task's documents, ordered by doc_id; None without documents."""
    if not samples:
        return None
    ordered = sorted(samples, key=lambda sample: sample["doc_id"])
    return hashlib.sha256("\n".join(sample["prompt_hash"] for sample in ordered).encode()).hexdigest()


def answer_line(sample: Mapping[str, Any], task: str, delimiter: str) -> dict[str, Any]:
    """The fields of one document that its scores are made again from and later compared with others.

    Identity, log-likelihoods, scores, which answers are right, and how long they are in characters.  `delimiter` joins
    an answer to its prompt.
    """
    answers = [answer[0] if isinstance(answer, list) else answer for answer in sample["resps"]]
    pairs = [answer for answer in answers if isinstance(answer, tuple | list) and len(answer) == 2]
    target = sample["target"]
    return {
        "doc_id": sample["doc_id"],
        "doc_hash": sample["doc_hash"],
        "prompt_hash": sample["prompt_hash"],
        "target_hash": sample["target_hash"],
        "question_hash": hash_question(sample["arguments"]),
        "target": target if isinstance(target, int) else None,
        "loglikelihoods": [number(pair[0]) for pair in pairs],
        "is_greedy": [bool(pair[1]) for pair in pairs],
        "right": right_answers.find_right_answers(task, sample),
        "lengths": right_answers.measure_answers(sample["arguments"], delimiter),
        "metrics": {name: json_value(sample[name]) for name in sample["metrics"]},
    }


def hash_question(arguments: Sequence[Sequence[Any]]) -> str:
    """sha256, in hex, of every prompt of a document with the text after it; lm-eval's hash covers one prompt alone."""
    asked = [["", *given] if len(given) == 1 else list(given) for given in arguments]
    return hashlib.sha256(json.dumps(asked, default=str).encode()).hexdigest()


def compress_texts(samples: list[dict[str, Any]]) -> bytes:
    """The questions of a task as gzipped JSON lines ordered by doc_id; equal questions give equal bytes."""
    first = {sample["doc_id"]: sample for sample in reversed(samples)}
    lines = (json.dumps(texts_line(first[number]), ensure_ascii=False) for number in sorted(first))
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), compresslevel=5, mtime=0)


def texts_line(sample: Mapping[str, Any]) -> dict[str, Any]:
    """The texts of one document: its prompts, or a single one if all requests share it, and the choices after them.

    A text that is scored from its first token has the empty prompt.
    """
    arguments = [("", *given) if len(given) == 1 else given for given in sample["arguments"]]
    prompts = [given[0] for given in arguments]
    return {
        "doc_id": sample["doc_id"],
        "prompts": prompts[:1] if len(set(prompts)) == 1 else prompts,
        "choices": [given[1] for given in arguments if isinstance(given[1], str)],
    }


def read_texts(path: Path) -> dict[int, dict[str, Any]]:
    """The lines of a texts file: doc_id -> line.  Raises OSError or ValueError when it cannot be read."""
    try:
        lines = [files.parse_json(line) for line in files.read_gzip(path).splitlines()]
        return {line["doc_id"]: line for line in lines}
    except (KeyError, TypeError) as error:
        raise ValueError(f"a line is no document: {type(error).__name__}: {error}") from None


def json_value(value: Any) -> Any:
    """A metric's value of one document for JSON: numpy scalars become numbers, tuples become lists."""
    if isinstance(value, tuple | list):
        return [json_value(item) for item in value]
    item = value.item() if hasattr(value, "item") else value
    if isinstance(item, bool) or not isinstance(item, int | float):
        return item if isinstance(item, bool | str | None) else str(item)
    return number(item)
