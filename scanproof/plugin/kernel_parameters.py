"""Kernel cases as pytest parameters: their ids and marks, and what is known to go wrong in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import pytest

from scanproof.kernels.cases import CaseError, InvariantCase, KernelCase
from scanproof.kernels.latency.latency_cases import LatencyCase

MARKS = {"interpreter": pytest.mark.interpreted, "gpu": pytest.mark.gpu}
LATENCY_MARKS = {"gpu": [pytest.mark.gpu, pytest.mark.latency], "cpu": [pytest.mark.latency]}
Table = TypeVar("Table")


class KnownMiss(Exception):
    """An installed operation missed the criterion where that is known; nothing else is expected of it."""


def known_miss(reason: str) -> pytest.MarkDecorator:
    """A strict xfail that takes a KnownMiss only: a missing package, a fallback, another error and a pass all fail."""
    return pytest.mark.xfail(reason=reason, strict=True, raises=KnownMiss)


def fail_as_wrong(item: pytest.Item, message: str) -> NoReturn:
    """Fail because a result is wrong: as the known miss, where the test is marked with one."""
    if item.get_closest_marker("xfail"):
        raise KnownMiss(message)
    pytest.fail(message, pytrace=False)


@contextmanager
def known_error(text: str | None) -> Iterator[None]:
    """Turn the RuntimeError that an operation is known to raise, by a text in it, into a KnownMiss.

    Without a text no error is known.  CUDA's errors are never known ones: nothing can be said of an operation on a
    device that is broken.
    """
    try:
        yield
    except RuntimeError as error:
        if text is None or type(error) is not RuntimeError or text not in str(error):
            raise
        raise KnownMiss(str(error)) from error


def case_parameters(rows: Iterable[KernelCase | InvariantCase]) -> list[Any]:
    """(row, place) for every place where the row's case runs; a miss that is known is expected, strictly."""
    parameters = []
    for row in rows:
        case = row.case if isinstance(row, InvariantCase) else row
        for place in case.where:
            marks = [MARKS[place], *([pytest.mark.quick] if row.quick else [])]
            if case.alone and place == "gpu":
                marks.append(pytest.mark.own_process)
            if case.known and isinstance(row, KernelCase):
                marks.append(known_miss(case.known))
            parameters.append(pytest.param(row, place, id=f"{row.id}-{place}", marks=marks))
    return parameters


def latency_parameters(rows: Iterable[LatencyCase]) -> list[Any]:
    """(row, place) for every latency."""
    quick = {True: [pytest.mark.quick], False: []}
    return [pytest.param(row, row.place, id=row.id, marks=LATENCY_MARKS[row.place] + quick[row.quick]) for row in rows]


def load_table(load: Callable[[], Table]) -> Table:
    """What a table of cases holds; a mistake in it is a collection error without a traceback."""
    try:
        return load()
    except CaseError as error:
        raise pytest.Collector.CollectError(f"scanproof: {error}") from None
