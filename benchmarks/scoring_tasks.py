"""What `benchmarks/scoring.py` scores: the requests that lm-eval makes of the embedded tasks."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from scoring_engines import Text, silence

from scanproof.evaluation.request import Settings, request_for_worker
from scanproof.numbers.values import EvalJob
from scanproof.plugin import options

FULL = 200
"""Documents of each embedded task; MMLU has 10 of each of its subjects."""

GROUP = "mmlu"
"""Many tasks of lm-eval, one per subject, that are one here."""


@dataclass(frozen=True)
class Task:
    """One of the twelve; MMLU's subjects are one."""

    documents: int
    texts: Sequence[Text]


Request = Mapping[str, Any]
"""What a worker reads, see `scanproof.evaluation.request.request_for_worker`."""


def prepared(job: EvalJob, store: Path) -> tuple[Request, Mapping[str, str]]:
    """What a worker reads of a job, and its environment variables."""
    where = Settings(store=store, mirror=options.EMBEDDED_MIRROR, fresh=True, timeout=None, session="benchmark")
    return request_for_worker(job, where)


def tasks_of(
    context: ForkServerContext, request: Request, share: float, each: int | None = None, shots: int | None = None
) -> dict[str, Task]:
    """The log-likelihood requests of a job, by task.

    Args:
        share: of the documents of each task, and of the subjects of MMLU, with all of their documents.
        each: instead of a share of the documents, so many of each task, and of each subject.
        shots: examples, instead of the job's.
    """
    job = dict(request["job"])
    job["limit"] = each
    if each is None and GROUP not in job["tasks"]:
        job["limit"] = max(1, round(share * FULL))
    if shots is not None:
        job["num_fewshot"] = shots
    here, there = context.Pipe()
    process = context.Process(target=_listen, args=(there, {**request, "job": job}), daemon=True)
    process.start()
    there.close()
    found: list[tuple[str, int, Text]] = here.recv()
    process.join()
    subjects = sorted({name for name, *_ in found if _group(name) == GROUP})
    kept = set(subjects[: max(1, round(share * len(subjects)))])
    chosen = [row for row in found if row[0] in kept or row[0] not in subjects]
    tasks: dict[str, Task] = {}
    for name in sorted({_group(name) for name, *_ in chosen}):
        rows = [row for row in chosen if _group(row[0]) == name]
        tasks[name] = Task(len({row[:2] for row in rows}), [text for *_, text in rows])
    return tasks


def _group(name: str) -> str:
    return GROUP if name.startswith(f"{GROUP}_") else name


def _listen(pipe: Any, request: Request) -> None:
    """Send (task, number of the document, text) of each request that lm-eval makes."""
    from lm_eval.api.model import LM

    from scanproof.evaluation.worker import lm_eval_tasks

    silence()
    os.chdir(options.EMBEDDED_MIRROR)
    found: list[tuple[str, int, Text]] = []

    class Listener(LM):  # type: ignore[misc]
        """Keeps what it is asked."""

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            found.extend((each.task_name, each.doc_id, each.args) for each in requests)
            return [(0.0, False)] * len(requests)

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            raise NotImplementedError("the embedded tasks have no rolling log-likelihoods")

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            raise NotImplementedError("the embedded tasks generate nothing")

    # lm-eval's progress bars go by no setting.
    with redirect_stderr(io.StringIO()):
        manager, tasks, broken = lm_eval_tasks.load_tasks(request)
        assert not broken, broken
        lm_eval_tasks.evaluate_tasks(Listener(), request["job"], tasks, manager, 0)
    pipe.send(found)


def random_model(folder: Path) -> Path:
    """Write a Mamba-1 of mamba-130m's size with random weights, and the tokenizer of a stand-in; returns the folder.

    Tokens of the stand-in's tokenizer are a part of its vocabulary.
    """
    import torch

    from scanproof.models.language_model import StateSpacesLM
    from scanproof.models.layout import StateSpacesConfig
    from scanproof.models.loading import save

    torch.manual_seed(0)
    config = StateSpacesConfig(d_model=768, n_layer=24, vocab_size=50277, ssm_cfg={})
    save(StateSpacesLM(config), folder, torch.float32)
    for path in (options.EMBEDDED_MIRROR / "scanproof" / "mamba1-tiny").glob("tokenizer*"):
        shutil.copy(path, folder)
    return folder
