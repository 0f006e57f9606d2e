"""Where kernels run, for the suites of this folder: Triton's interpreter, or a GPU.

Each place is made ready once; what it lacks is a skip, or an error under --scanproof-strict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import pytest

from scanproof.kernels import foreign_warnings
from scanproof.kernels.cases import CaseError, InvariantCase, KernelCase
from scanproof.kernels.launches import kernel_table, machine, proof
from scanproof.plugin import stash

if TYPE_CHECKING:
    from scanproof.kernels.operation import Op

MARKS = {"interpreter": pytest.mark.interpreted, "gpu": pytest.mark.gpu}


@dataclass(frozen=True)
class Kernels:
    """The operations of one place."""

    place: str
    device: str
    call: Callable[[Op], Callable[..., Any]]


class KnownMiss(Exception):
    """An installed operation missed the criterion where that is known; nothing else is expected of it."""


def known_miss(reason: str) -> pytest.MarkDecorator:
    """A strict xfail: what is missing, a fallback or another error is no known miss, and a pass is none either."""
    return pytest.mark.xfail(reason=reason, strict=True, raises=KnownMiss)


def fail_as_wrong(item: pytest.Item, message: str) -> NoReturn:
    """Fail with a result that is wrong, as the known miss where the test is marked with one."""
    if item.get_closest_marker("xfail"):
        raise KnownMiss(message)
    pytest.fail(message, pytrace=False)


@contextmanager
def known_error(text: str | None) -> Iterator[None]:
    """Take exactly the error that an operation is known to raise; without a text none is.

    Not one of CUDA's: nothing can be said of an operation on a device that is broken.
    """
    try:
        yield
    except RuntimeError as error:
        if text is None or type(error) is not RuntimeError or text not in str(error):
            raise
        raise KnownMiss(str(error)) from error


def parameters(rows: Iterable[KernelCase | InvariantCase]) -> list[Any]:
    """(row, place) for every place where the row's case runs; a miss that is known is expected, strictly."""
    found = []
    for row in rows:
        case = row.case if isinstance(row, InvariantCase) else row
        for place in case.where:
            marks = [MARKS[place], *([pytest.mark.quick] if row.quick else [])]
            if case.alone and place == "gpu":
                marks.append(pytest.mark.own_process)
            if case.known and isinstance(row, KernelCase):
                marks.append(known_miss(case.known))
            found.append(pytest.param(row, place, id=f"{row.id}-{place}", marks=marks))
    return found


T = TypeVar("T")


def table(load: Callable[[], T]) -> T:
    """What a table of cases holds; a mistake in it is said without a traceback."""
    try:
        return load()
    except CaseError as error:
        raise pytest.Collector.CollectError(f"scanproof: {error}") from None


def installed(op: Op) -> Callable[..., Any]:
    """The installed operation, imported now."""
    return op.load_implementation()


Missing = Callable[[str], None]
Proven = Callable[[str, Iterable[str]], AbstractContextManager[None]]
"""`with proven(name, needed)`: the kernels and entry points are launched before the block ends, or the test fails."""


@pytest.fixture
def missing(request: pytest.FixtureRequest) -> Missing:
    """Skip with a reason, or fail with it when nothing may be missing."""

    def stop(reason: str) -> None:
        if request.config.stash[stash.SETTINGS].strict:
            pytest.fail(f"{reason} (--scanproof-strict: not a skip)", pytrace=False)
        pytest.skip(reason)

    return stop


@pytest.fixture(autouse=True)
def warnings_of_packages(request: pytest.FixtureRequest) -> Iterator[None]:
    """On a GPU torch and the packages under test warn of what no kernel can help: shown, and no error."""
    with foreign_warnings.show_package_warnings() if request.node.get_closest_marker("gpu") else nullcontext():
        yield


@pytest.fixture(scope="session")
def interpreter() -> str | None:
    """Why the interpreter cannot be used, or None: then it is ready."""
    from scanproof.kernels import interpreter

    reason = interpreter.why_not()
    if reason is None:
        interpreter.prepare()
    return reason


@pytest.fixture
def kernels(request: pytest.FixtureRequest, place: str, missing: Missing) -> Kernels:
    """The operations of the place that a test is parametrised with."""
    if place == "interpreter":
        reason = request.getfixturevalue("interpreter")
        return _stopping(Kernels(place, "cpu", installed), reason, missing)
    # What is known without torch first, so that a machine without a GPU does not import it for nothing.
    reason = machine.why_no_gpu()
    if reason is None:
        from scanproof.kernels import device

        reason = device.why_no_gpu()
    return _stopping(Kernels(place, "cuda", installed), reason, missing)


def _stopping(kernels: Kernels, reason: str | None, missing: Missing) -> Kernels:
    if reason is not None:
        missing(reason)
    return kernels


@pytest.fixture
def require(kernels: Kernels, missing: Missing) -> Callable[[Op, KernelCase], None]:
    """Stop unless an operation can run a case here: it is installed, not beyond the interpreter, and has memory."""

    def check(op: Op, case: KernelCase) -> None:
        if op.name == case.op:
            # An invariant asks for the operation that steps as well: the row names what its own operation has.
            names_are_known(op, case)
        if kernels.place == "interpreter":
            if op.interpreter is not None:
                pytest.skip(f"{op.name}: {op.interpreter}")
            return
        try:
            op.load_implementation()
        except ImportError as error:
            advice = kernel_table.find_package(op.package).advice
            missing(f"{op.name} of {op.package} cannot be imported ({error}); install it: {advice}")
        _has_memory(op, case)

    return check


def names_are_known(op: Op, case: KernelCase) -> None:
    """Fail where a row names what its operation does not have; that takes torch, so collection does not ask."""
    from scanproof.kernels import inputs

    try:
        inputs.check_names(case, op.arguments, op.outputs, op.sizes(case))
    except CaseError as error:
        pytest.fail(f"scanproof: {error}", pytrace=False)


@pytest.fixture
def proven(request: pytest.FixtureRequest, kernels: Kernels) -> Proven:
    """Watch what a block launches: see `watched`."""

    def prove(name: str, needed: Iterable[str]) -> AbstractContextManager[None]:
        return watched(request.node, kernels.place, name, needed)

    return prove


@contextmanager
def watched(item: pytest.Item, place: str, name: str, needed: Iterable[str]) -> Iterator[None]:
    """Keep with the test what a block launches; it fails where it did not launch what is needed.

    The interpreter has no CUDA extension to enter.  The package that `import` finds is taken, so that a working copy on
    PYTHONPATH can be tested.
    """
    from scanproof.kernels.launches import watcher

    with watcher.observe() as observer:
        yield
    seen = observer.launches()
    item.user_properties.append(("launched", [asdict(launch) for launch in seen.launched]))
    item.user_properties.append(("autotuner", [asdict(choice) for choice in seen.choices]))
    there = [each for each in needed if place != "interpreter" or "." not in each]
    found = proof.find_missing_kernels(there, seen, installed=False)
    if found:
        pytest.fail(f"{name}: {proof.describe_missing_kernels(found)}", pytrace=False)


def _has_memory(op: Op, case: KernelCase) -> None:
    from scanproof.kernels import device
    from scanproof.kernels.costs import memory_needed

    needed, free = memory_needed(op, case), device.free_bytes()
    if needed > free:
        pytest.skip(f"{case.id} needs about {needed / 2**30:.0f} GiB of GPU memory, {free / 2**30:.0f} GiB are free")
