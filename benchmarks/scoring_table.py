"""The table of `benchmarks/scoring.py`: rows, totals, goals."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from scoring_engines import Engine, Pass, Work

Engines = Sequence[Mapping[str, "Row"]]
"""Of one model: a row per task, of each engine."""
TOKENS, WALL, WALL_OF_A_TASK, MEMORY = 1.1, 0.4, 1.0, 1.0
"""Goals: tokens that run to distinct tokens; wall time to lm-eval's, in total and of every task; peak memory."""


@dataclass(frozen=True)
class Row:
    """What an engine did with the same requests again and again."""

    task: str
    engine: Engine
    batch: int
    work: Work
    passes: Sequence[Pass]

    @property
    def seconds(self) -> float:
        """Median of the passes."""
        return statistics.median(each.seconds for each in self.passes)

    @property
    def processor(self) -> float:
        """Median of the passes."""
        return statistics.median(each.processor for each in self.passes)

    @property
    def memory(self) -> float:
        """Median of the passes."""
        return statistics.median(each.memory for each in self.passes)

    def apart(self, other: Row) -> tuple[float, int]:
        """Largest difference of a log-likelihood, and the number of greedy flags that differ."""
        pairs = self._pairs(other)
        return max(abs(one[0] - two[0]) for one, two in pairs), sum(one[1] != two[1] for one, two in pairs)

    def wrong(self, other: Row) -> bool:
        """Whether a log-likelihood is further from that of a row than rounding moves it; one that is no number is."""
        pairs, work = self._pairs(other), self.work
        allowed = (
            [steps + work.epsilon * abs(two[0]) for steps, (_, two) in zip(work.rounding, pairs, strict=True)]
            if work.rounding
            else [self.engine.apart] * len(pairs)
        )
        return not all(abs(one[0] - two[0]) <= most for (one, two), most in zip(pairs, allowed, strict=True))

    def _pairs(self, other: Row) -> list[tuple[tuple[float, bool], tuple[float, bool]]]:
        return list(zip(self.passes[0].answers, other.passes[0].answers, strict=True))


def total(rows: Mapping[str, Row]) -> Row:
    """All tasks as one: times and tokens added up, the largest of the peaks."""
    found = list(rows.values())
    passes = [
        Pass(
            sum(each.seconds for each in turn),
            sum(each.processor for each in turn),
            max(each.memory for each in turn),
            sum(each.tokens for each in turn),
            sum(each.padding for each in turn),
            tuple(answer for each in turn for answer in each.answers),
            sum(each.passes for each in turn),
        )
        for turn in zip(*(row.passes for row in found), strict=True)
    ]
    work = [row.work for row in found]
    asked = Work(
        sum(w.requests for w in work), sum(w.plain for w in work), sum(w.distinct for w in work),
        tuple(steps for w in work for steps in w.rounding), work[0].epsilon,
    )  # fmt: skip
    return Row("total", found[0].engine, found[0].batch, asked, passes)


HEAD = (
    f"{'model':<20} {'task':<15} {'engine':<8} {'batch':>5} {'plain':>8} {'distinct':>8} {'run':>8} {'/dist.':>6} "
    f"{'padding':>8} {'passes':>6} {'seconds':>8} {'wall':>5} {'cpu':>5} {'MiB':>6} {'mem.':>5} {'apart':>8}"
)


def line(name: str, row: Row, baseline: Row, before: Row) -> str:
    """Tokens, time and memory of a row; ratios to the baseline, pass by pass; how far the answers are from a row's."""
    ran = row.passes[0]
    text = (
        f"{name:<20} {row.task:<15} {row.engine.name:<8} {row.batch:>5} {row.work.plain:>8} {row.work.distinct:>8} "
        f"{ran.tokens:>8} {ran.tokens / row.work.distinct:>6.2f} {ran.padding:>8} {ran.passes:>6} "
        f"{row.seconds:>8.2f}"
    )
    if row is baseline:
        return f"{text} {'':>11} {row.memory / 2**20:>6.0f}"
    wall, processor, memory = ratios(row, baseline)
    apart, flags = row.apart(before)
    text += f" {wall:>5.2f} {processor:>5.2f} {row.memory / 2**20:>6.0f} {memory:>5.2f} {apart:>8.1e}"
    return text + (" DIFFERENT" if row.wrong(before) else "") + (f" {flags} FLAGS" if flags else "")


def ratios(row: Row, baseline: Row) -> tuple[float, float, float]:
    """Wall time, processor time, memory."""
    pairs = list(zip(row.passes, baseline.passes, strict=True))
    return (
        statistics.median(ours.seconds / theirs.seconds for ours, theirs in pairs),
        statistics.median(ours.processor / theirs.processor for ours, theirs in pairs),
        statistics.median(ours.memory / theirs.memory for ours, theirs in pairs),
    )


def lines(name: str, engines: Engines) -> Iterator[str]:
    """Each task of the last engine, then all tasks of every engine."""
    baseline, before, last = engines[0], engines[-2], engines[-1]
    for task, row in last.items():
        yield line(name, row, baseline[task], before[task])
    totals = [total(rows) for rows in engines]
    for row, before_it in zip(totals, [totals[0], *totals], strict=False):
        yield line(name, row, totals[0], before_it)


def wrong(engines: Engines) -> bool:
    """Whether an engine's answers are not those of the row before."""
    return any(row.wrong(one[task]) for one, other in pairwise(engines) for task, row in other.items())


def goals(measured: Mapping[str, Engines], apart: str) -> Iterator[str]:
    """What is asked for, and where it came out; the model `apart` is left out of the first sum."""
    last = [
        (f"{name} {task}", row, engines[0][task])
        for name, engines in measured.items()
        for task, row in engines[-1].items()
    ]
    tasks = {name: ratios(row, baseline) for name, row, baseline in last}
    whole = {name: (total(engines[-1]), total(engines[0])) for name, engines in measured.items()}
    models = {name: ratios(*pair) for name, pair in whole.items()}
    for of, pairs in (("stand-ins", [whole[name] for name in whole if name != apart]), ("all", list(whole.values()))):
        if pairs:
            yield f"{of}: {summed(pairs)}"
    run = {name: row.passes[0].tokens / row.work.distinct for name, row, _ in last}
    yield from goal(f"tokens run <= {TOKENS} x distinct, of a task", run, TOKENS)
    for place, unit in enumerate(("wall", "cpu")):
        yield from goal(f"{unit} <= {WALL} x, of a model", {name: found[place] for name, found in models.items()}, WALL)
        found = {name: of_task[place] for name, of_task in tasks.items()}
        yield from goal(f"{unit} <= {WALL_OF_A_TASK} x, of a task", found, WALL_OF_A_TASK)
    yield from goal(f"memory <= {MEMORY} x, of a model", {name: found[2] for name, found in models.items()}, MEMORY)
    yield from goal(f"memory <= {MEMORY} x, of a task", {name: found[2] for name, found in tasks.items()}, MEMORY)


def summed(pairs: Sequence[tuple[Row, Row]]) -> str:
    """Times of all rows together, to those of their baselines."""
    ours, theirs = zip(*pairs, strict=True)
    wall, whole = sum(row.seconds for row in ours), sum(row.seconds for row in theirs)
    processor = sum(row.processor for row in ours) / sum(row.processor for row in theirs)
    return f"wall {wall / whole:.2f}, cpu {processor:.2f} of {whole:.0f} s"


def goal(text: str, found: Mapping[str, float], most: float) -> Iterator[str]:
    """A goal, where it was met, the worst, and a line for each that missed it."""
    missed = sorted((name for name in found if found[name] > most), key=lambda name: -found[name])
    worst = max(found, key=lambda name: found[name])
    yield f"{text}: {len(found) - len(missed)} of {len(found)}; most {found[worst]:.2f} ({worst})"
    yield from (f"    missed: {name} {found[name]:.2f}" for name in missed)
