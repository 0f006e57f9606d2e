"""`python -m scanproof.evaluation.worker.substitution.score request.json out.json`: the worker of `scanproof triage --substitute`.

The request is a worker's (see `scanproof.evaluation.worker.run`), with documents, their reference answers, and the limit within which
an answer counts as restored.  The checkpoint is loaded once, by the class that evaluates it.
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
from scanproof.evaluation import store
from scanproof.evaluation.worker.substitution import departure
from scanproof.evaluation.worker.substitution.sites import counted, places, replaced


def main(arguments: list[str]) -> None:
    """Score the documents as they are and with every operation replaced that they call; write what came out."""
    request, out = json.loads(Path(arguments[0]).read_bytes()), Path(arguments[1]).resolve()
    model = load(request)
    files.write_atomically(out, store.to_json(run(model, request)))


def load(request: Mapping[str, Any]) -> Any:
    """The model as the evaluation loads it."""
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


def run(model: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a `scanproof.triage.evidence.Substituted`."""
    documents = request["documents"]
    reference = [value for line in documents for value in line["answers"]]
    on_gpu = request["job"]["device"].startswith("cuda")
    found = places(model.model, on_gpu)
    with counted(found) as calls:
        as_is = score(model, documents)
    trials = []
    for operation in sorted(calls):
        with replaced(found, {operation}):
            answers = score(model, documents)
        moved = differences(answers, reference)
        restored = sum(each <= request["limit"] for each in moved)
        trials.append({"operation": operation, "distance": mean(moved), "restored": restored})
    with replaced(found, set(calls)):
        every = score(model, documents)
    where, why = departed(model, documents[0], on_gpu)
    return {
        "documents": [line["doc_id"] for line in documents],
        "task": request["task"],
        "answers": len(reference),
        "limit": request["limit"],
        "as_is": mean(differences(as_is, reference)),
        "trials": trials,
        "all_replaced": mean(differences(every, reference)),
        "departure": where,
        "why_no_departure": why,
    }


def score(model: Any, documents: Sequence[Mapping[str, Any]]) -> list[float]:
    """Log-likelihood of every answer, documents and answers in their order; a text without a prompt is rolled over."""
    from lm_eval.api.instance import Instance

    pairs = [pair for line in documents for pair in pairs_of(line)]
    if all(prompt == "" for prompt, _ in pairs):
        requests = [
            Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=place)
            for place, (_, text) in enumerate(pairs)
        ]
        return [float(value) for value in model.loglikelihood_rolling(requests, disable_tqdm=True)]
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=place) for place, pair in enumerate(pairs)
    ]
    return [float(value) for value, _ in model.loglikelihood(requests, disable_tqdm=True)]


def pairs_of(line: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Prompt and answer of every request of a document."""
    prompts = line["prompts"] * (len(line["choices"]) if len(line["prompts"]) == 1 else 1)
    return list(zip(prompts, line["choices"], strict=True))


def differences(answers: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Distances in nats; what is not finite on one side only is infinitely far."""
    pairs = zip(answers, reference, strict=True)
    found = [0.0 if new == old else abs(new - old) for new, old in pairs]
    return [math.inf if math.isnan(each) else each for each in found]


def mean(values: Sequence[float]) -> float:
    """The mean, or the largest float where one is infinite: JSON has no infinity."""
    total = math.fsum(values) / len(values)
    return total if math.isfinite(total) else sys.float_info.max


def departed(model: Any, line: Mapping[str, Any], on_gpu: bool) -> tuple[dict[str, Any] | None, str | None]:
    """Where the document that moved most leaves the float64 run; or why that is not known."""
    import torch

    prompt, answer = pairs_of(line)[0]
    context, continuation = model._encode_pair(prompt, answer)
    tokens = torch.tensor([(context + continuation)[-model.max_length :]], device=model.device)
    try:
        found = departure.find(model.model, tokens, on_gpu)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        return None, f"{type(error).__name__}: {error}"
    if found is None:
        return None, "every layer is as close to it as the dtype allows"
    return {**found, "document": line["doc_id"]}, None


if __name__ == "__main__":
    main(sys.argv[1:])
