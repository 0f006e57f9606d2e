"""Kernel cases as pytest parameters: their ids and marks, and what is known to go wrong in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import pytest

from scanproof.kernels.cases import CaseError, InvariantCase, KernelCase
from scanproof.kernels.known import KnownDefect, split_error
from scanproof.kernels.latency.latency_cases import LatencyCase
from scanproof.plugin.broken_device import describe_cuda_error, is_cuda_error
from scanproof.plugin.kernel_evidence import KnownMiss, allow, has_launched
from scanproof.plugin.providers import provider_parameters

if TYPE_CHECKING:
    from scanproof.kernels.criterion import ResultComparison
    from scanproof.kernels.providers.provider import Provider

MARKS = {"interpreter": pytest.mark.interpreted, "gpu": pytest.mark.gpu}
LATENCY_MARKS = {"gpu": [pytest.mark.gpu, pytest.mark.latency], "cpu": [pytest.mark.latency]}
ILLEGAL_ACCESS = ("an illegal memory access", "misaligned address")
"""What CUDA's errors say when a kernel reads or writes outside of its tensors."""
Table = TypeVar("Table")


def known_miss(reason: str) -> pytest.MarkDecorator:
    """A strict xfail that takes a KnownMiss only: a missing package, a fallback, another error and a pass all fail."""
    return pytest.mark.xfail(reason=reason, strict=True, raises=KnownMiss)


def fail_as_wrong(
    item: pytest.Item, message: str, comparisons: Iterable[ResultComparison], known: KnownDefect | None
) -> NoReturn:
    """Fail because results are wrong: as the known miss, where only those are that are known, within their bounds.

    The test has to be marked with `known_miss` as well.
    """
    if known is None or not item.get_closest_marker("xfail"):
        pytest.fail(message, pytrace=False)
    if differences := known.list_differences(comparisons):
        lines = "\n".join(f"  {line}" for line in differences)
        pytest.fail(f"{message}\nthis is not what is known ({known.because}):\n{lines}", pytrace=False)
    allow(item, known.because)
    raise KnownMiss(message)


@contextmanager
def fail_where_not_compared(item: pytest.Item, case: KernelCase) -> Iterator[None]:
    """Fail, in few words, where a block finds nothing to compare: results that are none, or a GPU that it broke.

    Where offsets are known to wrap, an argument that was overwritten and an illegal access are the known miss.
    """
    from scanproof.kernels.compare import Overwritten, WrongResult

    try:
        yield
    except (WrongResult, RuntimeError) as error:
        if isinstance(error, WrongResult):
            message, by_wrapping = str(error), isinstance(error, Overwritten)
        elif is_cuda_error(error):
            message = f"{case.id}: {describe_cuda_error(error)}"
            by_wrapping = any(text in message for text in ILLEGAL_ACCESS)
        else:
            raise
        known = case.known if case.known is not None and case.known.wraps else None
        if by_wrapping and known is not None and has_launched(item) and item.get_closest_marker("xfail"):
            allow(item, known.because)
            raise KnownMiss(message) from error
        # Without the error itself: its traceback is long, and says no more than the message.
        raise pytest.fail.Exception(message, pytrace=False) from None


@contextmanager
def known_error(item: pytest.Item, text: str | None) -> Iterator[None]:
    """Turn the error that an operation is known to raise, `TYPE: TEXT` (`known.split_error`), into a KnownMiss.

    Without a text no error is known, and none before a kernel was launched: a fallback may raise the same words.
    CUDA's errors are never known ones: they have types of their own, and nothing can be said of an operation on a
    device that is broken.
    """
    try:
        yield
    except Exception as error:
        kind, words = split_error(text) if text is not None else (None, "")
        if type(error) is not kind or words not in str(error) or not has_launched(item):
            raise
        allow(item, f"known to raise: {text}")
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
                marks.append(known_miss(case.known.because))
            parameters.append(pytest.param(row, place, id=f"{row.id}-{place}", marks=marks))
    return parameters


def numerics_parameters(rows: Iterable[KernelCase], named: Mapping[str, Provider]) -> list[Any]:
    """(case, place, provider) for every case of what is installed, of the table of providers, and of what is named.

    What is named for an operation stands in place of all others.
    """
    from scanproof.kernels.providers.provider_table import PROVIDERS

    rows = tuple(rows)
    installed = case_parameters(row for row in rows if row.op not in named)
    others = [provider for provider in PROVIDERS if provider.operation not in named]
    return [
        *(pytest.param(*one.values, None, id=one.id, marks=one.marks) for one in installed),
        *provider_parameters(rows, [*others, *named.values()]),
    ]


def latency_parameters(rows: Iterable[LatencyCase], named: Mapping[str, Provider] | None) -> list[Any]:
    """(row, place, provider) for every latency: of what is installed, and beside it of its providers.

    On a CPU, where timing only tries the path, its providers are those that the session names.

    Args:
        named: what a session has named for an operation, timed beside all others; None: baselines are recorded, which
            are of what is installed alone.
    """
    from scanproof.kernels.providers.provider_table import PROVIDERS

    quick = {True: [pytest.mark.quick], False: []}
    by_place = {"gpu": () if named is None else PROVIDERS, "cpu": ()}
    parameters = []
    for row in rows:
        marks = LATENCY_MARKS[row.place]
        parameters.append(pytest.param(row, row.place, None, id=row.id, marks=marks + quick[row.quick]))
        parameters += [
            pytest.param(row, row.place, provider, id=f"{row.id}-{provider.title}", marks=marks)
            for provider in (*by_place[row.place], *(named or {}).values())
            if provider.operation == row.case.op and row.place in provider.places
        ]
    return parameters


def load_table(load: Callable[[], Table]) -> Table:
    """What a table of cases holds; a mistake in it is a collection error without a traceback."""
    try:
        return load()
    except CaseError as error:
        raise pytest.Collector.CollectError(f"scanproof: {error}") from None
