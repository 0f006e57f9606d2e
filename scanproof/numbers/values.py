"""The published numbers and the evaluation jobs that measure them, as frozen dataclasses.

`scanproof.numbers.expected.reader` reads them from `expected/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Literal

Unit = Literal["percent", "fraction", "raw"]
Origin = Literal["paper", "reproduced", "author", "embedded", "recorded"]
HarnessRelation = Literal["same", "other", "unknown"]
Suite = Literal["gpu", "embedded"]
UNRECORDED = "unrecorded"
"""Stands for a number of origin `recorded` that no trusted run has measured yet."""
Scalar = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a checkpoint is."""

    parameters: int
    vocab_size: int
    """Columns of the logits, padding included."""
    float32_logits: bool = False
    """The model turns its logits into float32 by itself."""


@dataclass(frozen=True, kw_only=True)
class EvalJob:
    """One run of lm-eval: a checkpoint, its arguments, and the tasks whose numbers need it."""

    name: str
    """Unique and readable, `<document>-<model>-<num_fewshot>shot`."""
    model: str
    """Name of the lm-eval model class: `mamba_ssm`, `hf`, `mamba_hybrid`, ..."""
    pretrained: str
    """Hub id of the checkpoint, or the same name inside a mirror folder."""
    revision: str
    """Branch, tag or commit of the checkpoint."""
    model_args: tuple[tuple[str, Scalar], ...] = ()
    """Further arguments of the model class, sorted by name."""
    dtype: str
    """`float16`, `bfloat16`, `float32` or `float64`."""
    device: str
    """`cuda` or `cpu`."""
    suite: Suite = "gpu"
    """`embedded` jobs use the checkpoints and datasets that come with scanproof."""
    tasks: tuple[str, ...]
    """lm-eval task and group names, sorted."""
    num_fewshot: int
    batch_size: int
    max_length: int | None = None
    limit: int | None = None
    """First N documents only; None for the full set."""
    seed: int = 1234
    """Seed of lm-eval's few-shot sampler, its own default."""
    trust_remote_code: str | None = None
    """Why code from the checkpoint may run, or None: it may not."""
    needs_remote_code: bool = False
    """The checkpoint cannot be loaded without its own code."""
    size: Size | None = None
    """None where it is not known; then the memory that the job needs is not known either."""
    kernels: tuple[str, ...] = ()
    """Parts of the names of kernels that the numbers need: an evaluation that did not launch them is an error."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One term of a derived number."""

    task: str
    metric: str
    documents: int | None = None
    """Number of evaluation documents of this term; the tolerance of a plain mean needs it."""
    binary: bool = True
    """Each document of this term is right or wrong; False: it scores between 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class Widening:
    """A tolerance widened by hand."""

    by: float
    """Added to the allowance, in the unit of the printed value."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class KnownDiscrepancy:
    """Why a printed number cannot come out, and the number that does."""

    comes_out: str
    """In the unit of the printed value, with at least its digits."""
    source: str
    """Where this number stands."""
    reason: str


def model_slug(hub_id: str, variant: str | None = None) -> str:
    """Name of a model in the names of numbers and jobs: without the organisation, with the variant."""
    name = hub_id.rsplit("/", 1)[-1].lower()
    return f"{name}-{variant}" if variant else name


def value_id(
    hub_id: str, task: str, metric: str, origin: str, suffix: str | None = None, variant: str | None = None
) -> str:
    """Name of a number: its model without the organisation, and what was measured."""
    parts = [model_slug(hub_id, variant), task, metric, origin, suffix]
    return "-".join(part for part in parts if part)


@dataclass(frozen=True, kw_only=True)
class PublishedValue:
    """One printed number, its place in the document, and how to measure it again."""

    document: str
    """Number of the document's file name, `000`."""
    line: int
    """Line of the document on which the number stands, counted from 1."""
    file: str
    """The expected file, relative to the folder of expected values."""
    file_line: int
    """Line of this value in the expected file."""
    model: str
    """The model as the document prints it."""
    hub_id: str
    job: EvalJob
    task: str
    """lm-eval task or group, or `average` for a mean over tasks."""
    metric: str
    """`acc`, `acc_norm` or `perplexity`."""
    origin: Origin
    printed: str
    """The number as it was printed; its digits give the rounding."""
    unit: Unit
    stderr: str | None = None
    """Standard error as printed, in the same unit."""
    num_fewshot_printed: int | None = None
    batch_size_printed: int | None = None
    documents: int | None = None
    """Number of evaluation documents behind the number; None when unknown."""
    binary: bool = True
    """Each document is right or wrong; False: it scores between 0 and 1, and the number is the mean."""
    parts: tuple[Part, ...] = ()
    """The terms of a derived number."""
    pooled: bool = False
    """A derived number weights its parts by their documents; False: plain mean."""
    harness: HarnessRelation = "same"
    """The document's harness: a named release of lm-eval (`same`), another harness (`other`), or `unknown`."""
    assumed: tuple[tuple[str, str], ...] = ()
    """(field, reason) for each field that the document leaves open."""
    known_discrepancy: KnownDiscrepancy | None = None
    """Why this number cannot come out, and what does, or None."""
    not_comparable: str | None = None
    """Why this number cannot be compared with a measurement, or None."""
    widened: Widening | None = None
    suffix: str = ""
    """Tells apart numbers that agree in model, task, metric and origin (`l171`: line of the document)."""
    variant: str = ""
    """What is done to the checkpoint before it is measured; it tells evaluations of one checkpoint apart."""

    @cached_property
    def id(self) -> str:
        """Test id, e.g. `mamba-130m-lambada_openai-acc-paper`."""
        return value_id(self.hub_id, self.task, self.metric, self.origin, self.suffix, self.variant)

    @property
    def unrecorded(self) -> bool:
        """Whether no number was printed and none is recorded yet."""
        return self.printed == UNRECORDED

    @property
    def counts_documents(self) -> bool:
        """Whether the number is the share of documents that are right."""
        plain_mean = bool(self.parts) and not self.pooled
        return self.metric != "perplexity" and self.binary and not plain_mean

    @property
    def scale(self) -> float:
        """Factor from the natural unit to the printed one: 100 for percent, else 1."""
        return 100.0 if self.unit == "percent" else 1.0

    @property
    def expected(self) -> float:
        """The printed number in the metric's natural unit (accuracies as fractions)."""
        return float(self.printed) / self.scale

    @property
    def half_unit(self) -> float:
        """Half a unit of the last printed digit, in the natural unit."""
        exponent = Decimal(self.printed).as_tuple().exponent
        assert isinstance(exponent, int)
        return 0.5 * 10.0**exponent / self.scale
