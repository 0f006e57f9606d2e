"""Compute numbers from other numbers: plain means over tasks, and groups pooled over their documents."""

from __future__ import annotations

import math
from collections.abc import Iterable

from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict.measurement import Measurement


class DeriveError(Exception):
    """A number cannot be computed from what the evaluation measured; the message names the part that is missing."""


def find_measurement(measurements: Iterable[Measurement], task: str, metric: str) -> Measurement | None:
    """The measurement of `metric` on `task`, or None."""
    return next((m for m in measurements if m.task == task and m.metric == metric), None)


def derive(value: PublishedValue, measurements: tuple[Measurement, ...]) -> Measurement:
    """Compute a derived value from its measured parts: pooled over documents, or a plain mean.

    Raises DeriveError naming the parts that were not measured.
    """
    measured = [find_measurement(measurements, part.task, part.metric) for part in value.parts]
    missing = [f"{p.task}/{p.metric}" for p, m in zip(value.parts, measured, strict=True) if m is None]
    if missing:
        raise DeriveError(f"{value.task} is derived from {', '.join(missing)}, which the evaluation did not measure")
    parts = [measurement for measurement in measured if measurement is not None]
    documents = sum(part.n_samples for part in parts)
    if value.pooled:
        mean = math.fsum(part.value * part.n_samples for part in parts) / documents
    else:
        mean = math.fsum(part.value for part in parts) / len(parts)
    return Measurement(task=value.task, metric=value.metric, value=mean, stderr=None, n_samples=documents)


def measurement_of(value: PublishedValue, measurements: tuple[Measurement, ...]) -> Measurement:
    """The measurement of `value`; a derived value is computed from its parts.

    Raises DeriveError when it was not measured.  Also when lm-eval reports an aggregate of its own that differs from
    the computed one: then the harness aggregates in another way than the document describes.
    """
    direct = find_measurement(measurements, value.task, value.metric)
    if not value.parts:
        if direct is None:
            raise DeriveError(f"the evaluation measured no {value.metric} for {value.task}")
        return direct
    computed = derive(value, measurements)
    if direct is None:
        return computed
    if not math.isclose(direct.value, computed.value, rel_tol=0.0, abs_tol=1e-9):
        raise DeriveError(
            f"{value.task}: the harness says {direct.value!r}, its {len(value.parts)} parts give {computed.value!r}; "
            "the harness weighs the parts differently"
        )
    return computed
