"""Where kernels run, for the suites of this folder: Triton's interpreter, or a GPU.

Each place is made ready once; what it lacks is a skip, or an error under --scanproof-strict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from scanproof import environment, state
from scanproof.kernels.cases import InvariantCase, KernelCase

if TYPE_CHECKING:
    from scanproof.kernels.op import Op

MARKS = {"interpreter": pytest.mark.interpreted, "gpu": pytest.mark.gpu}
MEMORY_FACTOR = 8
"""Free GPU memory that a case needs, in units of the bytes it must move: inputs are drawn in float32, the
references run in float64, and an operation has intermediate results of its own."""


@dataclass(frozen=True)
class Kernels:
    """The operations of one place."""

    place: str
    device: str
    call: Callable[[Op], Callable[..., Any]]


def parameters(rows: Iterable[KernelCase | InvariantCase]) -> list[Any]:
    """(row, place) for every place where the row's case runs; a miss that is known is expected, strictly."""
    found = []
    for row in rows:
        case = row.case if isinstance(row, InvariantCase) else row
        for place in case.where:
            marks = [MARKS[place]]
            if case.known and isinstance(row, KernelCase):
                marks.append(pytest.mark.xfail(reason=case.known, strict=True, raises=pytest.fail.Exception))
            found.append(pytest.param(row, place, id=f"{row.id}-{place}", marks=marks))
    return found


def installed(op: Op) -> Callable[..., Any]:
    """The installed operation, imported now."""
    return op.implementation()


INSTALL = {
    "mamba-ssm": "MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation mamba-ssm",
    "causal-conv1d": "CAUSAL_CONV1D_FORCE_BUILD=TRUE pip install --no-build-isolation causal-conv1d",
    "flash-attn": "pip install --no-build-isolation flash-attn",
}
Missing = Callable[[str], None]


@pytest.fixture
def missing(request: pytest.FixtureRequest) -> Missing:
    """Skip with a reason, or fail with it when nothing may be missing."""

    def stop(reason: str) -> None:
        if request.config.stash[state.SETTINGS].strict:
            pytest.fail(f"{reason} (--scanproof-strict: not a skip)", pytrace=False)
        pytest.skip(reason)

    return stop


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
    return _stopping(Kernels(place, "cuda", installed), environment.why_no_gpu(), missing)


def _stopping(kernels: Kernels, reason: str | None, missing: Missing) -> Kernels:
    if reason is not None:
        missing(reason)
    return kernels


@pytest.fixture
def require(kernels: Kernels, missing: Missing) -> Callable[[Op, KernelCase], None]:
    """Stop unless an operation can run a case here: it is installed, not beyond the interpreter, and has memory."""

    def check(op: Op, case: KernelCase) -> None:
        if kernels.place == "interpreter":
            if op.interpreter is not None:
                pytest.skip(f"{op.name}: {op.interpreter}")
            return
        try:
            op.implementation()
        except ImportError as error:
            missing(f"{op.name} of {op.package} cannot be imported ({error}); install it: {INSTALL[op.package]}")
        _has_memory(op, case)

    return check


def _has_memory(op: Op, case: KernelCase) -> None:
    import torch

    from scanproof.kernels.costs import cost

    needed, free = MEMORY_FACTOR * cost(op, case).bytes, torch.cuda.mem_get_info()[0]
    if needed > free:
        pytest.skip(f"{case.id} needs about {needed / 2**30:.0f} GiB of GPU memory, {free / 2**30:.0f} GiB are free")
