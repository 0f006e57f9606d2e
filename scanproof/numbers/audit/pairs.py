"""Compare the paper's numbers with their reproductions, in points, standard errors and documents.

An outlier is a pair that is further apart than the calibrated flip rate explains; for a perplexity, than the calibrated
deviation explains.  The probability of any false alarm over all pairs is OUTLIER_LEVEL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from scanproof.numbers.audit.audit_finding import AuditFinding, points
from scanproof.numbers.audit.calibration import OUTLIER_LEVEL, PrintedPair, flips_explain, noise_explains, paper_pairs
from scanproof.numbers.expected.constants import Constants
from scanproof.numbers.values import PublishedValue


def check(values: Sequence[PublishedValue], constants: Constants) -> Iterator[AuditFinding]:
    """One finding for each outlier, and for each paper's number that stands in the row of another metric."""
    pairs = [pair for pair in paper_pairs(values) if pair.first.counts_documents or pair.first.metric == "perplexity"]
    for pair in pairs:
        yield from _outlier(pair, constants, OUTLIER_LEVEL / len(pairs) / 2)
    yield from _misplaced(values)


def _outlier(pair: PrintedPair, constants: Constants, tail: float) -> Iterator[AuditFinding]:
    if pair.first.metric == "perplexity":
        ratio, because = noise_explains(pair, constants.perplexity_sd, tail)
    else:
        ratio, because = flips_explain(pair, constants.flip_rate_same, tail)
    if ratio <= 1:
        return
    numbers = _differences(pair)
    shown = ", ".join(f"{size:+.3g} {name}" for name, size in numbers.items())
    yield AuditFinding(
        check="pair",
        values=(pair.first.id, pair.second.id),
        document=pair.first.document,
        line=pair.first.line,
        message=f"paper {pair.first.printed}, reproduced {pair.second.printed}: {shown}; {because}",
        numbers=dict(numbers),
    )


def _differences(pair: PrintedPair) -> dict[str, float]:
    """Reproduction minus paper, in every unit that makes sense for the metric."""
    difference = pair.second.expected - pair.first.expected
    numbers = {}
    if pair.second.stderr is not None:
        numbers["stderrs"] = difference / (float(pair.second.stderr) / pair.second.scale)
    if pair.first.metric == "perplexity":
        return {"perplexity": difference, **numbers}
    return {"points": 100 * difference, **numbers, "documents": difference * pair.documents}


DocumentLine = tuple[str, int]
"""(document, line)."""


def _misplaced(values: Sequence[PublishedValue]) -> Iterator[AuditFinding]:
    """Numbers of the paper that stand in a row with another metric than the paper's numbers for other models do.

    Only those that are nearer to the row with the usual metric.  Filing the number under that metric settles it.
    """
    reproduced = {(value.document, value.line): value for value in values if value.origin == "reproduced"}
    papers = [v for v in values if v.origin == "paper" and (v.document, v.line) in reproduced]
    usual = _usual_metrics(papers, reproduced)
    for value in papers:
        row = reproduced[value.document, value.line]
        metric = usual[value.document, value.task]
        better = _find(values, row, metric)
        if row.metric == metric or better is None:
            continue
        away, near = (abs(points(value) - points(other)) for other in (row, better))
        if near < away:
            yield _misplaced_finding(value, row, better, (away, near))


def _usual_metrics(
    papers: Sequence[PublishedValue], reproduced: Mapping[DocumentLine, PublishedValue]
) -> dict[tuple[str, str], str]:
    """(document, task) -> the metric of the rows in which most of the paper's numbers stand."""
    seen: dict[tuple[str, str], Counter[str]] = {}
    for value in papers:
        row = reproduced[value.document, value.line]
        seen.setdefault((value.document, value.task), Counter())[row.metric] += 1
    return {what: metrics.most_common(1)[0][0] for what, metrics in seen.items()}


def _find(values: Sequence[PublishedValue], row: PublishedValue, metric: str) -> PublishedValue | None:
    for other in values:
        same = (other.document, other.hub_id, other.task) == (row.document, row.hub_id, row.task)
        if same and other.origin == "reproduced" and other.metric == metric:
            return other
    return None


def _misplaced_finding(
    value: PublishedValue, row: PublishedValue, better: PublishedValue, distances: tuple[float, float]
) -> AuditFinding:
    away, near = distances
    return AuditFinding(
        check="pair",
        values=(value.id,),
        document=value.document,
        line=value.line,
        message=f"paper {value.printed} is in the row of {row.metric}, {row.printed}, {away:.2f} points off; "
        f"for most models its {value.task} is {better.metric}, here {better.printed}, {near:.2f} points off",
        numbers={f"{row.metric}_points": away, f"{better.metric}_points": near},
        settled_by="metric" if value.metric == better.metric else "",
    )
