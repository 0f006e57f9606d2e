"""Record the stand-ins' expected values: `python -m scanproof.embedded.record` runs them in float64.

Writes one evaluation file per checkpoint and the per-document answers beside it.  Values that are already there are
replaced; everything else in the folder is left alone.
"""

from __future__ import annotations

import gzip
import json
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from scanproof import embedded, environment
from scanproof.evaluation.evaluate_job import evaluate
from scanproof.evaluation.process import Progress
from scanproof.evaluation.request import Settings
from scanproof.files import replace_atomically, write_atomically
from scanproof.numbers.values import EvalJob, Scalar, model_slug
from scanproof.numbers.verdict.answers import ANSWERS
from scanproof.numbers.verdict.measurement import Measurement
from scanproof.record import Evaluation

COMMAND = "python -m scanproof.embedded.record"
ZERO_SHOT = (
    "arc_challenge", "arc_easy", "boolq", "hellaswag", "lambada_openai", "openbookqa", "piqa", "pubmedqa", "race",
    "truthfulqa_mc2", "winogrande",
)  # fmt: skip
FEW_SHOT = ("mmlu",)
GROUPS = ("mmlu", "mmlu_humanities", "mmlu_other", "mmlu_social_sciences", "mmlu_stem")
METRICS = ("acc", "acc_norm", "perplexity")
BATCH_SIZE = 64
CLASSES = {
    "pythia-tiny": "hf",
    "mamba-hybrid-tiny": "mamba_hybrid",
    "mamba2-hybrid-tiny": "mamba2_hybrid",
    "megatron-hybrid-tiny": "mamba2_hybrid_megatron",
    "mamba-7b-tiny": "hf",
}
"""lm-eval model class of a stand-in that is not of the state-spaces layout."""


@dataclass(frozen=True)
class StandIn:
    """One checkpoint that scanproof ships."""

    hub_id: str
    model: str
    """lm-eval model class."""
    variant: str = ""
    """What is done to the checkpoint first, in a word."""
    model_args: tuple[tuple[str, Scalar], ...] = ()

    @property
    def name(self) -> str:
        return model_slug(self.hub_id, self.variant)


def list_stand_ins() -> Iterator[StandIn]:
    """Every stand-in, in the order in which they are reported."""
    for hub_id in embedded.MODELS:
        # The job of Mamba-7B says so, too.
        policy = (("add_bos_token", False),) if hub_id == embedded.CONVERTED else ()
        yield StandIn(hub_id, CLASSES.get(hub_id.partition("/")[2], "mamba_ssm"), model_args=policy)
    removed = (("end_block", 1), ("method", "personalized"), ("start_block", 1))
    yield StandIn("scanproof/pythia-tiny", "depth_pruned", "without-1", removed)


def make_job(stand_in: StandIn, tasks: tuple[str, ...], num_fewshot: int) -> EvalJob:
    """The stand-in's job as the suite runs it, in float32."""
    return EvalJob(
        name=f"embedded-{stand_in.name}-{num_fewshot}shot",
        model=stand_in.model,
        pretrained=stand_in.hub_id,
        revision="main",
        model_args=stand_in.model_args,
        dtype="float32",
        device="cpu",
        suite="embedded",
        tasks=tasks,
        num_fewshot=num_fewshot,
        batch_size=BATCH_SIZE,
        max_length=2048,
    )


def measure(stand_in: StandIn, store: Path) -> tuple[Evaluation, Evaluation]:
    """Run a stand-in in float64: zero-shot tasks, then the few-shot group."""

    def show(progress: Progress) -> None:
        typer.echo(f"\r{stand_in.name}: {progress.stage} {progress.done}/{progress.total}      ", nl=False, err=True)

    settings = Settings(store=store, mirror=embedded.MIRROR, fresh=False, timeout=None, session="record")
    jobs = (make_job(stand_in, ZERO_SHOT, 0), make_job(stand_in, FEW_SHOT, 5))
    zero, few = (evaluate(replace(each, dtype="float64"), settings, progress=show) for each in jobs)
    typer.echo(err=True)
    return zero, few


def select_measurements(measurements: Iterable[Measurement]) -> list[Measurement]:
    """The numbers worth expecting: single tasks and groups; a subject of ten documents can show nothing."""
    names = {*ZERO_SHOT, *GROUPS}
    found = [m for m in measurements if m.task in names and m.metric in METRICS]
    return sorted(found, key=lambda m: (m.task, m.metric))


def format_value(measurement: Measurement) -> str:
    """Four decimals, as lm-eval prints: finer than one document in any of these tasks."""
    return f"{measurement.value:.4f}"


def format_value_line(measurement: Measurement, line: int, num_fewshot: int) -> str:
    """One value as the evaluation file writes it; its document is this very file."""
    unit = "raw" if measurement.metric == "perplexity" else "fraction"
    fields = [
        f"task: {measurement.task}",
        f"metric: {measurement.metric}",
        f"line: {line}",
        "origin: embedded",
        f'printed: "{format_value(measurement)}"',
        f"unit: {unit}",
        f"documents: {measurement.n_samples}",
    ]
    if num_fewshot:
        fields.append(f"num_fewshot: {num_fewshot}")
    return "  - {" + ", ".join(fields) + "}"


def format_evaluation_file(stand_in: StandIn, zero: Evaluation, few: Evaluation) -> str:
    """The evaluation file of a stand-in, with the command and the versions that gave its numbers."""
    versions = {name: version for name, version in environment.versions().items() if version}
    head = [
        "# yaml-language-server: $schema=../schema/evaluation.schema.json",
        f"# Written by `{COMMAND} --model {stand_in.name}` on {datetime.now(UTC):%Y-%m-%d}, float64 on a CPU,",
        f"# Python {platform.python_version()}, " + ", ".join(f"{n} {v}" for n, v in sorted(versions.items())) + ".",
        "document: embedded",
        f"model: {stand_in.name}",
        f"hub_id: {stand_in.hub_id}",
        *([f"variant: {stand_in.variant}"] if stand_in.variant else []),
        "job:",
        f"  model: {stand_in.model}",
        "  revision: main",
        "  dtype: float32",
        "  device: cpu",
        "  num_fewshot: 0",
        f"  batch_size: {BATCH_SIZE}",
        "  max_length: 2048",
        *(
            [f"  model_args: {{{', '.join(f'{n}: {json.dumps(v)}' for n, v in stand_in.model_args)}}}"]
            if stand_in.model_args
            else []
        ),
        "values:",
    ]
    rows = [(m, 0) for m in select_measurements(zero.measurements)] + [
        (m, 5) for m in select_measurements(few.measurements)
    ]
    lines = [format_value_line(m, len(head) + number, shots) for number, (m, shots) in enumerate(rows, start=1)]
    return "\n".join([*head, *lines]) + "\n"


def read_answers(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Every document's answer: task, hashes, log-likelihoods and metrics."""
    for path in sorted(Path(evaluation.samples).glob("*.jsonl")):
        for line in path.read_text().splitlines():
            yield {"task": path.stem, **json.loads(line)}


def write_answers(path: Path, evaluations: Iterable[Evaluation]) -> None:
    """All answers as gzipped JSON lines; the same answers give the same bytes."""
    text = "".join(f"{json.dumps(row)}\n" for evaluation in evaluations for row in read_answers(evaluation))
    write_atomically(path, gzip.compress(text.encode(), mtime=0))


def main(
    model: Annotated[list[str] | None, typer.Option("--model", help="Only this stand-in; can be repeated.")] = None,
    folder: Annotated[Path, typer.Option("--folder", help="Where to write.")] = Path("expected/embedded"),
    store: Annotated[Path, typer.Option("--store", help="Folder of finished evaluations.")] = Path(".scanproof"),
) -> None:
    """Evaluate the stand-ins in float64 and write their expected values."""
    for stand_in in list_stand_ins():
        if model and stand_in.name not in model:
            continue
        zero, few = measure(stand_in, store)
        with replace_atomically(folder / f"{stand_in.name}.yaml") as temporary:
            temporary.write_text(format_evaluation_file(stand_in, zero, few))
        write_answers(folder / f"{stand_in.name}{ANSWERS}", (zero, few))
        typer.echo(f"{folder / stand_in.name}.yaml")


if __name__ == "__main__":
    typer.run(main)
