"""Record the stand-ins' expected values: `python -m scanproof.embedded.record` runs them in float64.

It writes one evaluation file per checkpoint, and the answers to every document beside it.  Existing files of these
checkpoints are replaced; other files of the folder stay.
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
DTYPE = "float32"
"""Of the jobs that the answers are recorded for; they themselves are computed in float64."""
MAX_LENGTH = 2200
"""More than 2,048 tokens, and no multiple of a chunk; the longest documents are cut to it."""
CLASSES = {
    "pythia-tiny": "hf",
    "mamba-hybrid-tiny": "mamba_hybrid",
    "mamba2-hybrid-tiny": "mamba2_hybrid",
    "megatron-hybrid-tiny": "mamba2_hybrid_megatron",
    "mamba-7b-tiny": "hf",
}
"""Stand-in -> lm-eval model class, where its layout is not that of state-spaces."""


@dataclass(frozen=True)
class StandIn:
    """A checkpoint that scanproof ships, and how it is loaded."""

    hub_id: str
    model: str
    """lm-eval model class."""
    variant: str = ""
    """A short name for what is done to the checkpoint before scoring; empty for nothing."""
    model_args: tuple[tuple[str, Scalar], ...] = ()

    @property
    def name(self) -> str:
        return model_slug(self.hub_id, self.variant)


def list_stand_ins() -> Iterator[StandIn]:
    """Every stand-in, in the order in which they are reported."""
    for hub_id in embedded.MODELS:
        # As in the job of Mamba-7B.
        policy = (("add_bos_token", False),) if hub_id == embedded.CONVERTED else ()
        yield StandIn(hub_id, CLASSES.get(hub_id.partition("/")[2], "mamba_ssm"), model_args=policy)
    removed = (("end_block", 1), ("method", "personalized"), ("start_block", 1))
    yield StandIn("scanproof/pythia-tiny", "depth_pruned", "without-1", removed)


def make_job(stand_in: StandIn, tasks: tuple[str, ...], num_fewshot: int) -> EvalJob:
    """The stand-in's float32 job, as the suite runs it."""
    return EvalJob(
        name=f"embedded-{stand_in.name}-{num_fewshot}shot",
        model=stand_in.model,
        pretrained=stand_in.hub_id,
        revision="main",
        model_args=stand_in.model_args,
        dtype=DTYPE,
        device="cpu",
        suite="embedded",
        tasks=tasks,
        num_fewshot=num_fewshot,
        batch_size=BATCH_SIZE,
        max_length=MAX_LENGTH,
    )


def measure(stand_in: StandIn, store: Path) -> tuple[Evaluation, Evaluation]:
    """Evaluate a stand-in in float64: (the zero-shot tasks, the few-shot group)."""

    def show(progress: Progress) -> None:
        typer.echo(f"\r{stand_in.name}: {progress.stage} {progress.done}/{progress.total}      ", nl=False, err=True)

    settings = Settings(store=store, mirror=embedded.MIRROR, fresh=False, timeout=None, session="record")
    jobs = (make_job(stand_in, ZERO_SHOT, 0), make_job(stand_in, FEW_SHOT, 5))
    zero, few = (evaluate(replace(job, dtype="float64"), settings, progress=show) for job in jobs)
    typer.echo(err=True)
    return zero, few


def select_measurements(measurements: Iterable[Measurement]) -> list[Measurement]:
    """The numbers to expect: of tasks and groups, but not of mmlu's subjects, which have only ten documents each."""
    names = {*ZERO_SHOT, *GROUPS}
    selected = [m for m in measurements if m.task in names and m.metric in METRICS]
    return sorted(selected, key=lambda m: (m.task, m.metric))


def format_value(measurement: Measurement) -> str:
    """The value with four decimals, as lm-eval prints it; one document changes more than the last of them."""
    return f"{measurement.value:.4f}"


def format_value_line(measurement: Measurement, line: int, num_fewshot: int) -> str:
    """An entry of the evaluation file; `line` is its own line: the file is also the document that it quotes."""
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
    """Text of a stand-in's evaluation file, with the command and the package versions of its numbers."""
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
        f"  dtype: {DTYPE}",
        "  device: cpu",
        "  num_fewshot: 0",
        f"  batch_size: {BATCH_SIZE}",
        f"  max_length: {MAX_LENGTH}",
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
    """Yield the answer to every document: task, hashes, log-likelihoods and metrics."""
    for path in sorted(Path(evaluation.samples).glob("*.jsonl")):
        for line in path.read_text().splitlines():
            yield {"task": path.stem, **json.loads(line)}


def write_answers(path: Path, evaluations: Iterable[Evaluation]) -> None:
    """Write all answers as gzipped JSON lines, behind a line about all of them; the same give the same bytes."""
    measured = list(evaluations)
    header = {"task": "", "probe_tokens": measured[0].environment["probe_tokens"], "dtype": DTYPE}
    rows = [header, *(row for evaluation in measured for row in read_answers(evaluation))]
    write_atomically(path, gzip.compress("".join(f"{json.dumps(row)}\n" for row in rows).encode(), mtime=0))


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
