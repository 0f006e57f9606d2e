"""The worker process of `scanproof triage --substitute`.

Usage: `python -m scanproof.evaluation.worker.substitution.score request.json out.json`.  The request is that of
`scanproof.evaluation.worker.run` with three more keys: `documents` with their reference answers, `task`, and `limit`,
the distance in nats within which an answer counts as restored.  The checkpoint is loaded once, by the class that
evaluates it.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scanproof import files
from scanproof.evaluation.worker.substitution.departure import find_departure
from scanproof.evaluation.worker.substitution.sites import count_calls, find_replacements, replace_operations


def main(arguments: list[str]) -> None:
    """Score the documents unchanged and with each operation replaced that the model calls, and write the answers."""
    request, out = json.loads(Path(arguments[0]).read_bytes()), Path(arguments[1]).resolve()
    model = load_model(request)
    files.write_atomically(out, files.to_sorted_json(substitute_operations(model, request)))


def load_model(request: Mapping[str, Any]) -> Any:
    """Load the model as the evaluation loads it."""
    from lm_eval.api.registry import get_model

    if request["mirror"]:
        os.chdir(request["mirror"])
    importlib.import_module(request["models"]).register()
    job = request["job"]
    arguments = {**request["model_args"]}
    if request["revision"]:
        arguments["revision"] = request["revision"]
    return get_model(job["model"]).create_from_arg_obj(
        arguments, {"batch_size": job["batch_size"], "device": job["device"]}
    )


def substitute_operations(model: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Replace one operation at a time; returns the fields of a `scanproof.triage.evidence.Substituted`."""
    documents = request["documents"]
    reference = [value for line in documents for value in line["answers"]]
    on_gpu = request["job"]["device"].startswith("cuda")
    replacements = find_replacements(model.model, on_gpu)
    with count_calls(replacements) as calls:
        as_is = score_documents(model, documents)
    trials = []
    for operation in sorted(calls):
        with replace_operations(replacements, {operation}):
            answers = score_documents(model, documents)
        distances = differences(answers, reference)
        restored = sum(distance <= request["limit"] for distance in distances)
        trials.append({
            "operation": operation,
            "distance": finite_mean(distances),
            "largest": finite_largest(distances),
            "restored": restored,
        })  # fmt: skip
    with replace_operations(replacements, set(calls)):
        all_replaced = differences(score_documents(model, documents), reference)
    unchanged = differences(as_is, reference)
    departure, why = locate_departure(model, documents[0], on_gpu)
    return {
        "documents": [line["doc_id"] for line in documents],
        "task": request["task"],
        "answers": len(reference),
        "limit": request["limit"],
        "as_is": finite_mean(unchanged),
        "as_is_largest": finite_largest(unchanged),
        "trials": trials,
        "all_replaced": finite_mean(all_replaced),
        "all_replaced_largest": finite_largest(all_replaced),
        "departure": departure,
        "why_no_departure": why,
    }


def score_documents(model: Any, documents: Sequence[Mapping[str, Any]]) -> list[float]:
    """Log-likelihood of every answer in nats, in the order of the documents and their answers.

    Documents without prompts are scored as rolling log-likelihoods.
    """
    from lm_eval.api.instance import Instance

    pairs = [pair for line in documents for pair in pairs_of(line)]
    if all(prompt == "" for prompt, _ in pairs):
        requests = [
            Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=index)
            for index, (_, text) in enumerate(pairs)
        ]
        return [float(value) for value in model.loglikelihood_rolling(requests, disable_tqdm=True)]
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=index) for index, pair in enumerate(pairs)
    ]
    return [float(value) for value, _ in model.loglikelihood(requests, disable_tqdm=True)]


def pairs_of(line: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The requests of a document as (prompt, answer)."""
    prompts = line["prompts"] * (len(line["choices"]) if len(line["prompts"]) == 1 else 1)
    return list(zip(prompts, line["choices"], strict=True))


def differences(answers: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Distances in nats; infinite where only one side is infinite, or a side is NaN."""
    pairs = zip(answers, reference, strict=True)
    distances = [0.0 if new == old else abs(new - old) for new, old in pairs]
    return [math.inf if math.isnan(distance) else distance for distance in distances]


def finite_mean(values: Sequence[float]) -> float:
    """The mean; the largest float in place of infinity, which JSON does not have."""
    total = math.fsum(values) / len(values)
    return total if math.isfinite(total) else sys.float_info.max


def finite_largest(values: Sequence[float]) -> float:
    """The largest value, which decides in the gate; the largest float in place of infinity."""
    return min(max(values), sys.float_info.max)


def locate_departure(model: Any, line: Mapping[str, Any], on_gpu: bool) -> tuple[dict[str, Any] | None, str | None]:
    """Where the model departs from its float64 run on the document that moved most; or None and the reason."""
    import torch

    prompt, answer = pairs_of(line)[0]
    context, continuation = model._encode_pair(prompt, answer)
    tokens = torch.tensor([(context + continuation)[-model.max_length :]], device=model.device)
    try:
        departure = find_departure(model.model, tokens, on_gpu)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        return None, f"{type(error).__name__}: {error}"
    if departure is None:
        return None, "every layer is as close to it as the dtype allows"
    return {**departure, "document": line["doc_id"]}, None


if __name__ == "__main__":
    main(sys.argv[1:])
