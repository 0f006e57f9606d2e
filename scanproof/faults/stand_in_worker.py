"""Evaluates one stand-in once per fault, in a process of its own.

`python -m scanproof.faults.stand_in_worker request.json out.jsonl`: the request is that of an evaluation worker
(`scanproof.evaluation.worker.run`) and a list of fault ids.  The checkpoint is loaded once.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from scanproof.evaluation import results
from scanproof.evaluation.worker import lm_eval_tasks
from scanproof.faults.catalogue import FAULTS
from scanproof.faults.layers import plant_in_layers


def main(arguments: list[str]) -> None:
    """Write one JSON line without a fault, then one per fault: its id, seconds, and the measurements or the error.

    Args:
        arguments: paths of the request and of the file to write.
    """
    from lm_eval.api.registry import get_model

    request, out = json.loads(Path(arguments[0]).read_bytes()), Path(arguments[1]).resolve()
    os.chdir(request["mirror"])
    importlib.import_module(request["models"]).register()
    job = request["job"]
    model = get_model(job["model"]).create_from_arg_obj(
        request["model_args"], {"batch_size": job["batch_size"], "device": job["device"]}
    )
    faults_by_id = {fault.id: fault for fault in FAULTS}
    with out.open("w") as lines:
        for name in (None, *request["faults"]):
            with plant_in_layers(faults_by_id[name]) if name else contextlib.nullcontext():
                line = {"fault": name, **evaluate_once(model, request)}
            lines.write(json.dumps(line) + "\n")
            lines.flush()


def evaluate_once(model: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Evaluate the stand-in once, as the suite does; returns the measurements or the error, and processor seconds."""
    started = time.process_time()
    manager, tasks, _ = lm_eval_tasks.load_tasks(request)
    try:
        measured = lm_eval_tasks.evaluate_tasks(model, request["job"], tasks, manager, request["bootstrap_iters"])
    except (RuntimeError, IndexError, ValueError, AssertionError) as error:
        return {"error": f"{type(error).__name__}: {error}", "seconds": time.process_time() - started}
    return {"measurements": results.list_measurements(measured), "seconds": time.process_time() - started}


if __name__ == "__main__":
    main(sys.argv[1:])
