"""Fixtures of kernel tests: the installed operations in Triton's interpreter or on a GPU, and their comparison.

A place is made ready once per session.  What it lacks is a skip, or a failure under --scanproof-strict.  What the
fixtures need is imported when a test asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from scanproof.plugin import providers
from scanproof.plugin.kernel_evidence import CHECKED, LAUNCHED, PROVIDER_FIXTURE, skip_as_allowed
from scanproof.plugin.session import session_of

if TYPE_CHECKING:
    from scanproof.kernels.cases import KernelCase
    from scanproof.kernels.operation import Op
    from scanproof.kernels.providers.provider import Provider
    from scanproof.plugin.providers import Provided

CASE_FIXTURE = "scanproof_case"
PLACE_FIXTURE = "scanproof_place"
NOT_INTERPRETED_FIXTURE = "scanproof_not_interpreted"

Missing = Callable[[str], None]
CannotRun = Callable[[str], NoReturn]
RequirePackages = Callable[..., None]
Require = Callable[["Op", "KernelCase"], None]
Proven = Callable[[str, Iterable[str]], AbstractContextManager[None]]
CheckKernel = Callable[["KernelCase"], None]


@dataclass(frozen=True)
class Kernels:
    """The operations of one place."""

    place: str
    """`interpreter`, `gpu`, or `cpu` for providers, and for latencies of PyTorch forms."""
    device: str
    """Where torch puts tensors: `cpu` or `cuda`."""
    call: Callable[[Op], Callable[..., Any]]
    """From an operation to the function that runs it here."""
    provided: Provided | None = None
    """What runs one operation in place of the installed one."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per kernel case and place; one per operation that the interpreter cannot run."""
    if not {CASE_FIXTURE, NOT_INTERPRETED_FIXTURE}.intersection(metafunc.fixturenames):
        return
    from scanproof.kernels import cases
    from scanproof.plugin.kernel_parameters import load_table, numerics_parameters

    if CASE_FIXTURE in metafunc.fixturenames:
        parameters = numerics_parameters(load_table(cases.load), session_of(metafunc.config).providers)
        metafunc.parametrize((CASE_FIXTURE, PLACE_FIXTURE, PROVIDER_FIXTURE), parameters)
    if NOT_INTERPRETED_FIXTURE in metafunc.fixturenames:
        names = load_table(cases.not_interpreted)
        metafunc.parametrize(NOT_INTERPRETED_FIXTURE, names, indirect=True)


@pytest.fixture
def scanproof_place() -> str:
    """Where a kernel test runs, `cpu`, `interpreter` or `gpu`: a parameter of the test."""
    pytest.fail(
        f"a kernel test says where it runs: ask for {CASE_FIXTURE}, or write "
        f"@pytest.mark.parametrize('{PLACE_FIXTURE}', ['interpreter'])",
        pytrace=False,
    )


@pytest.fixture
def scanproof_provider() -> Provider | None:
    """What runs the operation in place of the installed one: a parameter of a test of `scanproof_case`."""
    return None


@pytest.fixture
def scanproof_case(scanproof_place: str, scanproof_provider: Provider | None) -> KernelCase:
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
def scanproof_cannot_run(request: pytest.FixtureRequest) -> CannotRun:
    """Called with a reason: skips the test, under --scanproof-strict too, because no machine of this kind can run it.

    Any other skip of a kernel test fails a strict session.
    """

    def stop(reason: str) -> NoReturn:
        skip_as_allowed(request.node, reason)

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
    scanproof_provider: Provider | None,
    scanproof_missing: Missing,
    scanproof_foreign_warnings: None,
) -> Kernels:
    """The installed operations, or those of the test's provider, in the place that the test is parametrised with."""
    from scanproof.kernels.launches import machine

    reason: str | None
    if scanproof_place == "cpu":
        reason, device_kind = None, "cpu"
    elif scanproof_place == "interpreter":
        reason, device_kind = request.getfixturevalue("scanproof_interpreter"), "cpu"
    else:
        # What is known without torch first, so that a machine without a GPU does not import it for nothing.
        reason, device_kind = machine.why_no_gpu(), "cuda"
        if reason is None:
            from scanproof.kernels import device

            reason = device.why_no_gpu()
    if reason is not None:
        scanproof_missing(reason)
    if scanproof_provider is None:
        return Kernels(scanproof_place, device_kind, import_operation)
    from scanproof.kernels.providers.provider import NoProvider

    try:
        provided = providers.load_provider(scanproof_provider)
    except NoProvider as error:
        lacking = error
    else:
        return Kernels(scanproof_place, device_kind, lambda op: provided.function, provided)
    # Not while the error is handled: the reason is all that is shown.
    scanproof_missing(f"{scanproof_provider.title}: {lacking}")
    raise lacking


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
def scanproof_require(
    scanproof_kernels: Kernels, scanproof_missing: Missing, scanproof_cannot_run: CannotRun
) -> Require:
    """Called with an operation and a case: stops the test unless the operation can run the case here.

    It has to be installed, not beyond the interpreter, and has to have the GPU memory that the case needs.
    """

    def require(op: Op, case: KernelCase) -> None:
        if op.name == case.op:
            # An invariant asks for the operation that steps as well: the row names what its own operation has.
            fail_on_unknown_names(op, case)
        provided = scanproof_kernels.provided
        if provided is not None and (reason := provided.provider.why_cannot(case)) is not None:
            scanproof_cannot_run(f"{provided.provider.title}: {reason}")
        if scanproof_kernels.place == "cpu" or (provided is not None and scanproof_kernels.place == "interpreter"):
            return
        if scanproof_kernels.place == "interpreter":
            if op.interpreter is not None:
                scanproof_cannot_run(f"{op.name}: {op.interpreter}")
            import_or_stop(op, scanproof_kernels, scanproof_missing)
            return
        import_or_stop(op, scanproof_kernels, scanproof_missing)
        if op.name == case.op:
            # The operation that steps needs less, and its sizes are not those of the row.
            stop_without_memory(op, case, scanproof_missing, scanproof_cannot_run)

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


def stop_without_memory(op: Op, case: KernelCase, missing: Missing, cannot_run: CannotRun) -> None:
    """Skip a case that needs more memory than the GPU has; where something else holds it, what it needs is missing."""
    from scanproof.kernels import device
    from scanproof.kernels.costs import memory_needed

    needed = memory_needed(op, case)
    if (lack := device.why_no_memory(needed)) is not None:
        because, never = lack
        stop = cannot_run if never else missing
        stop(f"{case.id} needs about {needed / 2**30:.0f} GiB of GPU memory, {because}")


@pytest.fixture
def scanproof_proven(request: pytest.FixtureRequest, scanproof_kernels: Kernels) -> Proven:
    """`with scanproof_proven(name, needed)`: fails unless the block launches the kernels and entry points needed."""

    def prove(name: str, needed: Iterable[str]) -> AbstractContextManager[None]:
        if scanproof_kernels.provided is not None:
            return providers.watch_provider(request.node, scanproof_kernels.provided, name)
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
        try:
            yield
        finally:
            # Of what fails as well: it is a known miss only of kernels that were launched.
            launches = observer.launches()
            item.user_properties.append((LAUNCHED, [asdict(launch) for launch in launches.launched]))
            item.user_properties.append(("autotuner", [asdict(choice) for choice in launches.choices]))
    launchable = [entry for entry in needed if place != "interpreter" or "." not in entry]
    problems = proof.find_missing_kernels(launchable, launches, installed=False)
    if problems:
        pytest.fail(f"{name}: {proof.describe_missing_kernels(problems)}", pytrace=False)


def fail_where_called_again(op: Op, case: KernelCase, kernels: Kernels) -> None:
    """Fail where an operation does not repeat itself, keeps what it was given, or hides a NaN."""
    from scanproof.kernels import nan_spread, repeats

    call = kernels.call(op)
    lines = repeats.find_unrepeated(op, case, call, kernels.device)
    # What a GPU's kernels do with NaN has not been measured.
    if not lines and kernels.device == "cpu" and repeats.is_small(op, case):
        lines = nan_spread.find_wrong_nan(op, case, call)
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


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
    kernels.  It is an expected failure where the case goes wrong as is known, and skips where it cannot run.
    """

    def check(case: KernelCase) -> None:
        from scanproof.kernels import compare, operation_table
        from scanproof.plugin.kernel_parameters import fail_as_wrong, fail_where_not_compared, known_error

        op = operation_table.find_operation(case.op)
        scanproof_require(op, case)
        with fail_where_not_compared(request.node, case):
            if scanproof_kernels.provided is not None:
                # First: what is right once may be wrong from the second call on.  Of what is installed, tests of their
                # own ask it.
                fail_where_called_again(op, case, scanproof_kernels)
            with known_error(request.node, case.raises), scanproof_proven(case.id, op.needed_kernels(case)):
                comparisons = compare.compare_case(op, case, scanproof_kernels.call(op), scanproof_kernels.device)
        for comparison in comparisons:
            record_property(f"rms error: {comparison.result}", comparison.error.rms)
            record_property(f"rms error of the PyTorch form: {comparison.result}", comparison.form.rms)
            record_property(f"error / allowed: {comparison.result}", comparison.times_allowed)
        message = compare.describe_failures(case, comparisons)
        if message:
            fail_as_wrong(request.node, message, comparisons, case.known)
        record_property(CHECKED, case.id)

    return check
