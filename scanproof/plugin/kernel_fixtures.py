"""Fixtures of kernel tests: the installed operations in Triton's interpreter or on a GPU, and their comparison.

A place is made ready once per session.  What it lacks is a skip, or a failure under --scanproof-strict.  What the
fixtures need is imported when a test asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.plugin.session import session_of

if TYPE_CHECKING:
    from scanproof.kernels.cases import KernelCase
    from scanproof.kernels.operation import Op

CASE_FIXTURE = "scanproof_case"
PLACE_FIXTURE = "scanproof_place"
NOT_INTERPRETED_FIXTURE = "scanproof_not_interpreted"

Missing = Callable[[str], None]
RequirePackages = Callable[..., None]
Require = Callable[["Op", "KernelCase"], None]
Proven = Callable[[str, Iterable[str]], AbstractContextManager[None]]
CheckKernel = Callable[["KernelCase"], None]


@dataclass(frozen=True)
class Kernels:
    """The operations of one place."""

    place: str
    """`interpreter`, `gpu`, or `cpu` for latencies of PyTorch forms."""
    device: str
    """Where torch puts tensors: `cpu` or `cuda`."""
    call: Callable[[Op], Callable[..., Any]]
    """From an operation to the function that runs it here."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per kernel case and place; one per operation that the interpreter cannot run."""
    if not {CASE_FIXTURE, NOT_INTERPRETED_FIXTURE}.intersection(metafunc.fixturenames):
        return
    from scanproof.kernels import cases
    from scanproof.plugin.kernel_parameters import case_parameters, load_table

    if CASE_FIXTURE in metafunc.fixturenames:
        metafunc.parametrize((CASE_FIXTURE, PLACE_FIXTURE), case_parameters(load_table(cases.load)))
    if NOT_INTERPRETED_FIXTURE in metafunc.fixturenames:
        names = load_table(cases.not_interpreted)
        metafunc.parametrize(NOT_INTERPRETED_FIXTURE, names, indirect=True)


@pytest.fixture
def scanproof_place() -> str:
    """Where a kernel test runs, `interpreter` or `gpu`: a parameter of the test."""
    pytest.fail(
        f"a kernel test says where it runs: ask for {CASE_FIXTURE}, or write "
        f"@pytest.mark.parametrize('{PLACE_FIXTURE}', ['interpreter'])",
        pytrace=False,
    )


@pytest.fixture
def scanproof_case(scanproof_place: str) -> KernelCase:
    """One case of the kernel suite: a test with this argument runs once for every case and place."""
    raise AssertionError("the plugin makes a parameter of it")


@pytest.fixture
def scanproof_missing(request: pytest.FixtureRequest) -> Missing:
    """Called with a reason: skips the test, or fails it under --scanproof-strict."""

    def stop(reason: str) -> None:
        if session_of(request.config).settings.strict:
            pytest.fail(f"{reason} (--scanproof-strict: not a skip)", pytrace=False)
        pytest.skip(reason)

    return stop


@pytest.fixture
def scanproof_foreign_warnings(request: pytest.FixtureRequest) -> Iterator[None]:
    """In tests marked `gpu`, warnings of torch and of the packages under test are shown and are no errors."""
    if not request.node.get_closest_marker("gpu"):
        yield
        return
    from scanproof.kernels import foreign_warnings

    with foreign_warnings.show_package_warnings():
        yield


@pytest.fixture(scope="session")
def scanproof_interpreter() -> str | None:
    """Why Triton's interpreter cannot be used; None when it can, and then it is ready."""
    from scanproof.kernels import interpreter

    reason = interpreter.why_not()
    if reason is None:
        interpreter.prepare()
    return reason


@pytest.fixture
def scanproof_not_interpreted(request: pytest.FixtureRequest) -> str:
    """Why an operation does not run in Triton's interpreter: one test for every such operation."""
    from scanproof.kernels import operation_table

    return f"{request.param}: {operation_table.find_operation(request.param).interpreter}"


@pytest.fixture
def scanproof_kernels(
    request: pytest.FixtureRequest,
    scanproof_place: str,
    scanproof_missing: Missing,
    scanproof_foreign_warnings: None,
) -> Kernels:
    """The installed operations, in the place that the test is parametrised with."""
    from scanproof.kernels.launches import machine

    if scanproof_place == "interpreter":
        reason, device_kind = request.getfixturevalue("scanproof_interpreter"), "cpu"
    else:
        # What is known without torch first, so that a machine without a GPU does not import it for nothing.
        reason, device_kind = machine.why_no_gpu(), "cuda"
        if reason is None:
            from scanproof.kernels import device

            reason = device.why_no_gpu()
    if reason is not None:
        scanproof_missing(reason)
    return Kernels(scanproof_place, device_kind, import_operation)


def import_operation(op: Op) -> Callable[..., Any]:
    """The installed operation, imported now."""
    return op.load_implementation()


@pytest.fixture
def scanproof_require_packages(scanproof_place: str, scanproof_missing: Missing) -> RequirePackages:
    """Called with names of modules: stops a test on a GPU unless they are installed."""

    def require(*modules: str) -> None:
        from scanproof.kernels.launches import kernel_table

        lacking = [module for module in modules if find_spec(module) is None] if scanproof_place == "gpu" else []
        if lacking:
            rows = [row for row in kernel_table.PACKAGES if row.modules[0] in lacking]
            install = f"{kernel_table.INSTALL_EXTRA} && {kernel_table.install_command(*rows)}"
            scanproof_missing(f"needs {' and '.join(lacking)}, which are not installed here: {install}")

    return require


@pytest.fixture
def scanproof_require(scanproof_kernels: Kernels, scanproof_missing: Missing) -> Require:
    """Called with an operation and a case: stops the test unless the operation can run the case here.

    It has to be installed, not beyond the interpreter, and has to have the GPU memory that the case needs.
    """

    def require(op: Op, case: KernelCase) -> None:
        if op.name == case.op:
            # An invariant asks for the operation that steps as well: the row names what its own operation has.
            fail_on_unknown_names(op, case)
        if scanproof_kernels.place == "interpreter":
            if op.interpreter is not None:
                pytest.skip(f"{op.name}: {op.interpreter}")
            return
        import_or_stop(op, scanproof_kernels, scanproof_missing)
        skip_without_memory(op, case)

    return require


def import_or_stop(op: Op, kernels: Kernels, missing: Missing) -> Callable[..., Any]:
    """The operation in its place; where its package cannot be imported, the test stops with what to install."""
    from scanproof.kernels.launches import kernel_table

    try:
        return kernels.call(op)
    except ImportError as error:
        advice = kernel_table.find_package(op.package).advice
        missing(f"{op.name} of {op.package} cannot be imported ({error}); install it: {advice}")
        raise


def fail_on_unknown_names(op: Op, case: KernelCase) -> None:
    """Fail where a row names what its operation does not have; that takes torch, so collection does not ask."""
    from scanproof.kernels import inputs
    from scanproof.kernels.cases import CaseError

    try:
        inputs.check_names(case, op.arguments, op.outputs, op.sizes(case))
    except CaseError as error:
        pytest.fail(f"scanproof: {error}", pytrace=False)


def skip_without_memory(op: Op, case: KernelCase) -> None:
    """Skip with both numbers where the GPU has less free memory than the case needs."""
    from scanproof.kernels import device
    from scanproof.kernels.costs import memory_needed

    needed, free = memory_needed(op, case), device.free_bytes()
    if needed > free:
        pytest.skip(f"{case.id} needs about {needed / 2**30:.0f} GiB of GPU memory, {free / 2**30:.0f} GiB are free")


@pytest.fixture
def scanproof_proven(request: pytest.FixtureRequest, scanproof_kernels: Kernels) -> Proven:
    """`with scanproof_proven(name, needed)`: fails unless the block launches the kernels and entry points needed."""

    def prove(name: str, needed: Iterable[str]) -> AbstractContextManager[None]:
        return watch_launches(request.node, scanproof_kernels.place, name, needed)

    return prove


@contextmanager
def watch_launches(item: pytest.Item, place: str, name: str, needed: Iterable[str]) -> Iterator[None]:
    """Keep with the test what a block launches; it fails where it did not launch what is needed.

    The interpreter has no CUDA extension to enter.  The package that `import` finds is taken, so that a working copy on
    PYTHONPATH can be tested.
    """
    from scanproof.kernels.launches import proof, watcher

    with watcher.observe() as observer:
        yield
    launches = observer.launches()
    item.user_properties.append(("launched", [asdict(launch) for launch in launches.launched]))
    item.user_properties.append(("autotuner", [asdict(choice) for choice in launches.choices]))
    launchable = [entry for entry in needed if place != "interpreter" or "." not in entry]
    problems = proof.find_missing_kernels(launchable, launches, installed=False)
    if problems:
        pytest.fail(f"{name}: {proof.describe_missing_kernels(problems)}", pytrace=False)


@pytest.fixture
def scanproof_check_kernel(
    request: pytest.FixtureRequest,
    scanproof_kernels: Kernels,
    scanproof_require: Require,
    scanproof_proven: Proven,
    record_property: Callable[[str, object], None],
) -> CheckKernel:
    """Called with `scanproof_case`: runs the installed operation and compares it with its float64 reference.

    The test fails when the error is more than twice that of the PyTorch form, or when the operation did not launch its
    kernels.  It is an expected failure where the case is known to go wrong, and skips where it cannot run.
    """

    def check(case: KernelCase) -> None:
        from scanproof.kernels import compare, operation_table
        from scanproof.plugin.kernel_parameters import fail_as_wrong, known_error

        op = operation_table.find_operation(case.op)
        scanproof_require(op, case)
        try:
            with known_error(case.raises), scanproof_proven(case.id, op.needed_kernels(case)):
                comparisons = compare.compare_case(op, case, scanproof_kernels.call(op), scanproof_kernels.device)
        except compare.WrongResult as error:
            # Results of another number, shape or dtype: never what is known of a case.
            pytest.fail(str(error), pytrace=False)
        for comparison in comparisons:
            record_property(f"rms error: {comparison.result}", comparison.error.rms)
            record_property(f"rms error of the PyTorch form: {comparison.result}", comparison.form.rms)
        message = compare.describe_failures(case, comparisons)
        if message and case.raises is None:
            fail_as_wrong(request.node, message)
        if message:
            pytest.fail(message, pytrace=False)

    return check
