"""The form of the files in `expected/`: the meaning of each key and the values that it accepts.

`write_schemas` writes the forms as JSON Schema, for editors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

TEXT = r"\S"
"""A text says something: blanks are no reason."""
Text = Annotated[str, Field(min_length=1, pattern=TEXT)]
PrintedNumber = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?$")]
Printed = Annotated[str, Field(pattern=r"^([0-9]+(\.[0-9]+)?|unrecorded)$")]
Count = Annotated[int, Field(ge=1)]
Shots = Annotated[int, Field(ge=0)]
DocumentNumber = Annotated[str, Field(pattern=r"^([0-9]{3}|embedded)$")]
NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$"
"""A name may become part of a file's name: it is neither `.` nor `..`, no option and not long."""
Name = Annotated[str, Field(pattern=NAME)]
HubId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}$")]
MetricName = Literal["acc", "acc_norm", "perplexity"]
Assumptions = dict[Text, Text]

ASSUMED = (
    "Field -> why it was set as it is, for each field that the document leaves open. A field may be narrowed "
    "to a task or an origin, `num_fewshot:mmlu` or `batch_size:paper`; the narrower entry wins. What is said "
    "of num_fewshot or batch_size is dropped for values that print it."
)


class Form(BaseModel):
    """No other keys, and no conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class HarnessForm(Form):
    """The evaluation harness that the document used."""

    name: Text = Field(description="Name of the harness, `lm-eval`.")
    version: Text | None = Field(
        default=None, description="Release, branch or commit as printed; absent when not printed."
    )
    relation: Literal["same", "other", "unknown"] = Field(
        description="How it relates to lm-eval's releases: `same`, a named release; `other`, another "
        "harness or an unreleased branch; `unknown`, not said. The last two are given more tolerance."
    )
    said: Text = Field(description="What the document says about it, and on which line.")


class EnvironmentForm(Form):
    """The software that the numbers were produced with."""

    name: Text | None = Field(default=None, description="Name of the conda environment.")
    python: Text | None = Field(default=None, description="Python version.")
    channels: list[Text] = Field(default_factory=list, description="conda channels, in order.")
    conda: dict[Text, Text] = Field(default_factory=dict, description="conda package -> version=build.")
    packages: dict[Text, Text] = Field(default_factory=dict, description="pip package -> version.")
    wheels: list[Text] = Field(default_factory=list, description="File names of the wheels installed by hand.")


class FindingForm(Form):
    """Something that `scanproof audit` finds in the document, explained."""

    check: Literal["granularity", "stderr", "aggregate", "pair", "conflict"] = Field(description="Family of the check.")
    values: list[Text] = Field(min_length=1, description="Ids of the values concerned, as the audit prints them.")
    reason: Text = Field(description="Why it is so, and what was decided.")


class DocumentForm(Form):
    """One document: what it is and what it says about how its numbers were made."""

    number: DocumentNumber = Field(description="Number of the document's file name, in quotes; or `embedded`.")
    title: Text = Field(description="Title.")
    citation: Text = Field(description="Who published the numbers, and where.")
    urls: list[Text] = Field(default_factory=list, description="Where it can be read.")
    file: Text | None = Field(default=None, description="File name of the text whose lines the values name.")
    suite: Literal["gpu", "embedded"] = Field(description="Suite its values belong to.")
    numbers: Count = Field(
        description="How many numbers the files of this document hold, one for each entry of `values`. Those that are "
        "unrecorded count as well. The files have to hold exactly as many: a number that is lost is missed by this."
    )
    harness: HarnessForm = Field(description="The evaluation harness.")
    hardware: dict[Text, Text] = Field(
        default_factory=dict, description="Part (gpu, cpu, memory, driver, os) -> as printed."
    )
    environment: EnvironmentForm = Field(default_factory=EnvironmentForm, description="The software.")
    conventions: list[Text] = Field(default_factory=list, description="How its tables are to be read.")
    assumed: Assumptions = Field(default_factory=dict, description=ASSUMED + " Holds for every file of the document.")
    findings: list[FindingForm] = Field(default_factory=list, description="What the audit finds here, explained.")


class SizeForm(Form):
    """How large a checkpoint is; the GPU memory that a job needs is computed from it."""

    parameters: Count = Field(description="Number of weights.")
    vocab_size: Count = Field(description="Columns of the logits, padding included.")
    float32_logits: bool = Field(default=False, description="The model turns its logits into float32 by itself.")


class JobForm(Form):
    """How to measure the numbers: the arguments of one lm-eval run."""

    model: Name = Field(description="lm-eval's name of the model class: `mamba_ssm`, `hf`, `mamba2_hybrid`, ...")
    revision: Name = Field(description="Branch, tag or commit of the checkpoint.")
    dtype: Literal["float16", "bfloat16", "float32", "float64"] = Field(description="Precision of the run.")
    num_fewshot: Shots = Field(description="Examples in the prompt.")
    batch_size: Count = Field(description="Batch size.")
    device: Literal["cuda", "cpu"] = Field(default="cuda", description="Where it runs.")
    max_length: Count | None = Field(default=None, description="Longest sequence in tokens; absent: the model's own.")
    limit: Count | None = Field(default=None, description="First documents only; such numbers are not comparable.")
    seed: int = Field(default=1234, description="Seed of the few-shot sampler.")
    model_args: dict[Name, str | int | float | bool] = Field(
        default_factory=dict, description="Further arguments of the model class."
    )
    trust_remote_code: Text | None = Field(
        default=None,
        description="Why code that comes with the checkpoint may run. Absent or null: it may not.",
    )
    needs_remote_code: bool = Field(
        default=False,
        description="The checkpoint cannot be loaded without code that comes with it; skipped unless "
        "trust_remote_code says why it may run.",
    )
    size: SizeForm | None = Field(default=None, description="How large the checkpoint is.")
    kernels: list[Text] = Field(
        default_factory=list,
        description="Parts of the names of the kernels without which the numbers mean nothing. An evaluation that "
        "did not launch them, from the package that brings them, is an error.",
    )


class PartForm(Form):
    """One term of a derived number."""

    task: Name = Field(description="Task.")
    metric: MetricName = Field(description="Its metric.")


class WideningForm(Form):
    """A tolerance widened by hand; every run lists it."""

    by: float = Field(
        gt=0, allow_inf_nan=False, description="Added to what is allowed, in the unit of the printed number."
    )
    reason: Text = Field(description="Why.")


class KnownForm(Form):
    """A printed number that cannot come out; any other than the one that does is out of tolerance."""

    comes_out: PrintedNumber = Field(
        description="The number that comes out, in quotes, in the unit of printed and with at least its digits."
    )
    source: Text = Field(description="Where this number stands.")
    reason: Text = Field(description="Why the printed number cannot come out.")


class ValueForm(Form):
    """One printed number."""

    task: Name = Field(description="lm-eval task or group of tasks.yaml, or `average` with `parts`.")
    metric: MetricName = Field(description="Metric.")
    line: Count = Field(description="Line of the document on which the number stands, counted from 1.")
    origin: Literal["paper", "reproduced", "author", "embedded", "recorded"] = Field(
        description="Who measured it: the `paper` that the document quotes, the document's `author`, or "
        "somebody who `reproduced` the numbers of others. Stand-ins: `embedded`. What nobody printed: `recorded` "
        "from a run of scanproof."
    )
    printed: Printed = Field(
        description="The digits as printed, in quotes: they give the rounding. `unrecorded` where the origin is "
        "`recorded` and `scanproof record` has not written the number yet."
    )
    run: Name | None = Field(default=None, description="Run that gave a recorded number; a key of the file's runs.")
    unit: Literal["percent", "fraction", "raw"] = Field(description="Unit of printed; perplexities are raw.")
    stderr: PrintedNumber | None = Field(default=None, description="Standard error as printed, in quotes, same unit.")
    suffix: Name | None = Field(
        default=None, description="Tells apart numbers that agree in all of the above but the line."
    )
    num_fewshot: Shots | None = Field(default=None, description="In place of the job's.")
    num_fewshot_printed: Shots | None = Field(default=None, description="In place of the file's.")
    batch_size: Count | None = Field(default=None, description="In place of the job's.")
    batch_size_printed: Count | None = Field(default=None, description="In place of the file's.")
    documents: Count | None = Field(default=None, description="Documents behind the number, in place of tasks.yaml's.")
    parts: list[PartForm] = Field(default_factory=list, description="What an average is the plain mean of.")
    assumed: Assumptions = Field(default_factory=dict, description="For this number alone; see the file's.")
    widened: WideningForm | None = Field(default=None, description="More tolerance, with a reason.")
    known_discrepancy: KnownForm | None = Field(
        default=None, description="Why this number cannot come out, and the number that does."
    )
    not_comparable: Text | None = Field(
        default=None, description="Why no measurement can be compared with this number."
    )


class RunForm(Form):
    """Where recorded numbers come from."""

    date: Text = Field(description="When the run began, ISO 8601.")
    key: Text = Field(description="Digest of everything that can move the evaluation's numbers.")
    command: Text = Field(description="Command line that repeats the evaluation.")
    commit: Text | None = Field(default=None, description="Commit of the clone that ran; absent when it was none.")
    checkpoint_commit: Text | None = Field(default=None, description="Commit of the checkpoint, where it is known.")
    removed_layers: Text | None = Field(default=None, description="Layers taken out of the model, both ends included.")
    device: Text = Field(description="GPU by name, or cpu.")
    python: Text = Field(description="Python version.")
    packages: dict[Text, Text] = Field(description="Package -> version.")


class EvaluationForm(Form):
    """One evaluation of one model, and the numbers printed for it."""

    document: DocumentNumber = Field(description="Number of the document, in quotes.")
    model: Text = Field(description="The model as the document prints it.")
    hub_id: HubId = Field(description="The checkpoint, as the hub spells it.")
    variant: Name | None = Field(
        default=None,
        description="What is done to the checkpoint before it is measured, in a word that goes into the names of its "
        "numbers and jobs; absent: nothing.",
    )
    job: JobForm = Field(description="How to measure the numbers.")
    num_fewshot_printed: Shots | None = Field(
        default=None,
        description="Number of shots as the document prints it for this evaluation; not for origin `paper`.",
    )
    batch_size_printed: Count | None = Field(
        default=None,
        description="Batch size as the document prints it for this evaluation; not for origin `paper`.",
    )
    assumed: Assumptions = Field(default_factory=dict, description=ASSUMED)
    not_comparable: Text | None = Field(
        default=None, description="Why no measurement can be compared with the numbers."
    )
    runs: dict[Name, RunForm] = Field(
        default_factory=dict, description="Id -> the runs that gave recorded numbers; written by `scanproof record`."
    )
    values: list[ValueForm] = Field(min_length=1, description="The numbers, one line each.")


class CostForm(Form):
    """What a task costs without examples in the prompt; estimates, which recorded runs correct."""

    tokens: Count = Field(description="Tokens of a forward pass, on average; also those of one example in the prompt.")
    longest: Count = Field(description="Tokens of the longest forward pass.")
    passes: float = Field(
        gt=0,
        allow_inf_nan=False,
        description="Forward passes per document: one per answer, or one for all answers of a single token.",
    )


class TaskForm(Form):
    """One lm-eval task."""

    documents: Count = Field(description="Documents that it scores.")
    metrics: list[MetricName] = Field(min_length=1, description="Metrics that it reports.")
    choices: Count | None = Field(
        default=None, description="Answers to choose from, most of the time; absent: not a choice."
    )
    dataset: Text = Field(description="Hub id of its data.")
    config: Text | None = Field(default=None, description="Configuration of its data.")
    cost: CostForm | None = Field(default=None, description="What a document costs; absent: not known.")
    binary: bool = Field(default=True, description="A document is right or wrong; false: scored between 0 and 1.")


class GroupForm(Form):
    """One lm-eval group; its number is the mean over the documents of all its tasks."""

    metrics: list[MetricName] = Field(min_length=1, description="Metrics that it reports.")
    members: list[Name] = Field(min_length=1, description="Tasks and groups in it.")


class TasksForm(Form):
    """The tasks and groups that values may name."""

    tasks: dict[Name, TaskForm] = Field(min_length=1, description="Tasks by lm-eval's name.")
    groups: dict[Name, GroupForm] = Field(default_factory=dict, description="Groups by lm-eval's name.")


SCHEMAS: tuple[tuple[str, type[Form]], ...] = (
    ("document.schema.json", DocumentForm),
    ("evaluation.schema.json", EvaluationForm),
    ("tasks.schema.json", TasksForm),
)


def schema_text(form: type[Form]) -> str:
    """The JSON Schema of one kind of file."""
    schema: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema.update(form.model_json_schema())
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def write_schemas(folder: Path) -> list[Path]:
    """Write the JSON Schemas of all kinds of files into `folder`, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, form in SCHEMAS:
        path = folder / name
        path.write_text(schema_text(form), encoding="utf-8")
        written.append(path)
    return written
