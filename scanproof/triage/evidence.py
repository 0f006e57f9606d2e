"""What triage knows about one number of one run.  Data only; `scanproof.triage.gather` reads it from the stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from scanproof.kernels.launches.launched import Launches
from scanproof.numbers.values import EvalJob
from scanproof.numbers.verdict.answers import TaskSamples
from scanproof.numbers.verdict.engines import EngineName, Engines
from scanproof.numbers.verdict.outcome import meaning_of

DocumentTexts = Mapping[int, Mapping[str, Any]]
"""doc_id -> `prompts` and `choices`, see `scanproof.evaluation.results.texts_line`."""
AnswerRows = Mapping[int, Mapping[str, Any]]
"""doc_id -> the logged line, see `scanproof.evaluation.results.answer_line`."""
NO_EVIDENCE = "no_evidence"
"""Kind of an evaluation that ended well and whose number has an ERROR for a verdict."""


@dataclass(frozen=True, kw_only=True)
class Broken:
    """How an evaluation ended without numbers, or with one that is no evidence."""

    kind: str | None
    """A `scanproof.errors.FailureKind` or NO_EVIDENCE; None where only the text is left."""
    message: str
    last_words: str = ""
    log: str | None = None


@dataclass(frozen=True, kw_only=True)
class TaskAnswers:
    """One task as one evaluation answered it."""

    samples: TaskSamples
    rows: AnswerRows | None = None
    """The lines themselves, with a hash per document; None where only the columns were kept."""
    texts: DocumentTexts | None = None
    """The questions; None where they were not kept."""
    version: str | None = None
    """Version that the task definition gives itself."""
    num_fewshot: int | None = None


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a comparison: the evaluation in question, or the one that it is compared with."""

    name: str
    """Its name in messages: `this run`, `the good run 2026...`, `the answers recorded in float64`."""
    job: EvalJob | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Any] | None = None
    """The parts of its fingerprint; None where the store does not hold it any more."""
    kernels: Launches | None = None
    engine: EngineName | None = None
    """What scored it; None for answers that no run holds."""
    tasks: Mapping[str, TaskAnswers] = field(default_factory=dict)
    ceiling: float | None = None
    """Nats by which rounding can move an answer away from these, where that is known."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that triage uses to explain one number."""

    run: str
    number: str
    outcome: str
    because: str
    metric: str
    leaves: tuple[tuple[str, str], ...]
    """Tasks whose documents the number is made of, each with the metric."""
    store: str
    """Folder of the store, for the commands that are proposed."""
    margin: float = 0.0
    """Nats by which answers may move on average between two correct runs (`scanproof.numbers.expected.constants`)."""
    broken: Broken | None = None
    now: Side | None = None
    """None when there are no numbers."""
    before: Side | None = None
    """The last good run of the job; None where there is none."""
    recorded: Side | None = None
    """The answers shipped in float64; None where there are none."""
    engines: Engines | None = None
    """What both engines measured; None where one of them was enough."""
    published: Mapping[str, str] = field(default_factory=dict)
    """The environment in which the number was published, as far as the document says it."""
    changed_kernels: tuple[str, ...] = ()
    """How the autotuner chose differently than the time before."""
    substituted: Substituted | None = None
    """What scoring again with replaced operations gave; None before it was run."""
    bisected: Bisected | None = None
    """What `scanproof bisect` found for this number; None before it was run."""
    notes: tuple[str, ...] = ()
    """What could not be read."""

    @cached_property
    def answers(self) -> Side | None:
        """What the answers are compared with: those recorded in float64, else those of the good run."""
        for side in (self.recorded, self.before):
            if side is not None and any(task in side.tasks for task, _ in self.leaves):
                return side
        return None

    @property
    def failed(self) -> bool:
        """Whether there is anything to explain."""
        return meaning_of(self.outcome).is_bad


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The chosen documents scored with one operation replaced by its float64 reference."""

    operation: str
    distance: float
    """Mean distance of the answers from the reference answers, in nats."""
    restored: int
    """Answers within the limit of the reference answers."""
    largest: float | None = None
    """Largest distance of one answer, in nats; None in what was kept until November 2026."""

    @property
    def deciding(self) -> float:
        """The distance that decides: the largest, as in the gate."""
        return self.distance if self.largest is None else self.largest


@dataclass(frozen=True, kw_only=True)
class Departure:
    """Where the model first leaves its float64 run."""

    layer: int
    position: int
    """Token of the document, counted from 0."""
    error: float
    """Relative to the size of the hidden state there."""
    allowed: float
    document: int


@dataclass(frozen=True, kw_only=True)
class Substituted:
    """What `scanproof triage --substitute` measured."""

    documents: tuple[int, ...]
    task: str
    answers: int
    """Scored, as many as the trials count."""
    limit: float
    """Nats within which an answer counts as restored."""
    as_is: float
    """Mean distance of the answers without a replacement, in nats."""
    trials: tuple[Trial, ...]
    all_replaced: float
    """Mean distance with every operation replaced at once."""
    departure: Departure | None = None
    why_no_departure: str | None = None
    as_is_largest: float | None = None
    """Largest distance of one answer without a replacement, in nats; None in what was kept until November 2026."""
    all_replaced_largest: float | None = None

    @property
    def deciding_as_is(self) -> float:
        """The distance without a replacement that decides: the largest, as in the gate."""
        return self.as_is if self.as_is_largest is None else self.as_is_largest

    @property
    def deciding_all(self) -> float:
        """The same with every operation replaced."""
        return self.all_replaced if self.all_replaced_largest is None else self.all_replaced_largest


@dataclass(frozen=True, kw_only=True)
class Bisected:
    """What `scanproof bisect` found."""

    packages: tuple[str, ...]
    alone: bool | None
    """Whether the number is good with all the others as in the bad environment; None where that could not be tried."""
    versions: tuple[tuple[str, str | None, str | None], ...]
    """Name, version in the good environment, version in the bad one."""
    because: str
