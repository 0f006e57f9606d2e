"""What counts as an entry of a provider's function: what has succeeded while the provider's call ran."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.kernels.providers import entered
else:
    torch, entered = Late("torch"), Late("scanproof.kernels.providers.entered")

Adapt = Callable[[Any], Callable[..., Any]]


def name(grid: Any) -> str:
    return str(getattr(grid, "__name__", grid))


class Slotted:
    """A kernel, as Triton has them, but without attributes of its own, as of a type in C.

    Its `run` gives the function of a grid its arguments, and compiles if asked to.
    """

    __slots__ = ("programs",)

    def __init__(self) -> None:
        self.programs: list[Any] = []

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        return lambda **given: self.run(grid=grid, warmup=False, **given)

    def run(self, *, grid: Any, warmup: bool, **given: Any) -> None:
        if grid == "refused":
            raise RuntimeError("no grid")
        if not warmup:
            self.programs.append(grid(given) if callable(grid) else grid)


class Launched(Slotted):
    """The same, as Triton has it."""


class BoundRun(Launched):
    """The same, with a `run` that an attribute of the object cannot hide."""

    @property
    def run(self) -> Any:
        return super().run


class Launcher:
    """A kernel of a package's own, without `run`."""

    def __init__(self) -> None:
        self.programs: list[Any] = []

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        if grid == "refused":
            raise RuntimeError("no grid")
        return lambda **given: self.programs.append(grid(given) if callable(grid) else grid)

    def __call__(self, **given: Any) -> None:
        self[given["grid"]]()


def one(meta: Any) -> tuple[int]:
    return (1,)


def none(meta: Any) -> list[int]:
    return [1, 0]


KERNELS = [Launched, Slotted, BoundRun, Launcher]
WITH_RUN = KERNELS[:3]


class Fails:
    """Called, or in a module of torch's."""

    def forward(self, **given: Any) -> Any:
        if given.get("fails"):
            raise ValueError
        return given

    __call__ = forward


def count(target: Any, adapt: Adapt, **arguments: Any) -> int:
    """How often a target is entered in two calls of a provider; an empty argument is nothing to launch."""
    watch = entered.EntryWatch(target)
    provider = watch.wrap(adapt)
    with watch.watch():
        for _ in range(2):
            provider(**arguments)
    assert not watch.ended_early
    empty = any(part.numel() == 0 for part in arguments.values())
    assert watch.had_nothing_to_do == (watch.is_kernel and empty and not watch.entered)
    return watch.entered


def launching(grid: Any, **more: Any) -> Adapt:
    return lambda kernel: lambda **given: kernel[grid](**more)


def swallowing(call: Callable[[Any], Any]) -> Adapt:
    """A provider that computes otherwise where its function raises."""

    def adapt(target: Any) -> Callable[..., Any]:
        def provider(**given: Any) -> Any:
            try:
                return call(target)
            except (RuntimeError, ValueError):
                return None

        return provider

    return adapt


def in_thread(call: Callable[[Any], Any]) -> Adapt:
    def adapt(target: Any) -> Callable[..., Any]:
        def provider(**given: Any) -> None:
            thread = threading.Thread(target=call, args=(target,))
            thread.start()
            thread.join()

        return provider

    return adapt


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("grid", [1, (1,), [2, 1, 3], one], ids=name)
def test_a_launch_counts(kernel: type, grid: Any) -> None:
    target = kernel()
    assert count(target, launching(grid)) == len(target.programs) == 2


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("grid", [0, (0,), [2, 0], (-1,), none], ids=name)
def test_an_empty_grid_counts_nothing(kernel: type, grid: Any) -> None:
    target = kernel()
    assert count(target, launching(grid), x=torch.ones(1)) == 0
    assert len(target.programs) == 2
    assert count(target, launching(grid), x=torch.ones(0, 3)) == 0


def test_the_function_of_a_grid_gets_what_it_would_and_is_told_from_one_that_is_not_called() -> None:
    asked: list[Any] = []

    def grid(meta: Any) -> tuple[int]:
        asked.append(meta)
        return (1,)

    assert count(Launched(), launching(grid, BLOCK=4)) == 2
    assert asked == [{"BLOCK": 4}] * 2

    class Ignoring(Launcher):
        def __getitem__(self, grid: Any) -> Callable[..., Any]:
            return lambda **given: None

    assert count(Ignoring(), launching(grid)) == 0


@pytest.mark.parametrize("kernel", WITH_RUN)
def test_what_is_run_with_its_grid_counts_but_for_a_warm_up(kernel: type) -> None:
    def running(grid: Any, warmup: bool) -> Adapt:
        return lambda kernel: lambda **given: kernel.run(grid=grid, warmup=warmup)

    assert count(kernel(), running((1,), False)) == 2
    assert count(kernel(), running((1,), True)) == 0
    assert count(kernel(), running(none, False)) == 0


def test_a_launcher_that_is_called_as_it_is_counts_with_its_grid() -> None:
    def calling(grid: Any) -> Adapt:
        return lambda kernel: lambda **given: kernel(grid=grid)

    assert [count(Launcher(), calling(grid)) for grid in ((1,), (0,), none)] == [2, 0, 0]


@pytest.mark.parametrize("grid", [((4, 4), (32, 1), 0), (4, 32, 0, 1024)], ids=name)
def test_what_follows_a_grid_and_its_blocks_is_no_side(grid: Any) -> None:
    assert count(Launcher(), launching(grid)) == 2
    assert count(Launcher(), launching((0, *grid[1:]))) == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_launch_when_the_call_is_made_counts_nothing(kernel: type) -> None:
    def adapt(kernel: Any) -> Callable[..., Any]:
        kernel[(1,)]()
        return lambda **given: None

    target = kernel()
    assert count(target, adapt) == 0
    assert target.programs == [(1,)]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_launch_after_the_call_counts_nothing(kernel: type) -> None:
    watch = entered.EntryWatch(kernel())
    kept: list[Any] = []
    provider = watch.wrap(lambda kernel: lambda **given: kept.append(kernel))
    with watch.watch():
        provider()
        kept[0][(1,)]()
    assert watch.entered == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_that_is_not_launched_counts_nothing(kernel: type) -> None:
    def adapt(kernel: Any) -> Callable[..., Any]:
        return lambda **given: None

    assert count(kernel(), adapt, x=torch.ones(1)) == 0
    assert count(kernel(), adapt, x=torch.ones(0)) == 0


def test_a_function_that_is_not_called_counts_nothing_even_where_an_argument_is_empty() -> None:
    assert count(torch.nn.functional.silu, lambda silu: lambda **given: None, x=torch.ones(0)) == 0
    assert count(torch.nn.Identity(), lambda module: lambda **given: None, x=torch.ones(0)) == 0


def test_a_function_that_is_called_when_the_call_is_made_counts_nothing() -> None:
    assert count(lambda: 1, lambda function: [function(), lambda **given: None][1]) == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_launch_that_raises_counts_nothing(kernel: type) -> None:
    assert count(kernel(), swallowing(lambda kernel: kernel["refused"]())) == 0
    # An empty argument makes no error of a launch that it had nothing to do.
    watch = entered.EntryWatch(kernel())
    provider = watch.wrap(swallowing(lambda kernel: kernel["refused"]()))
    with watch.watch():
        provider(x=torch.ones(0))
    assert not watch.had_nothing_to_do


@pytest.mark.parametrize(
    "make", [lambda: Fails().forward, lambda: Fails(), lambda: Fails], ids=["method", "module", "class"]
)
def test_a_call_that_raises_counts_nothing(make: Callable[[], Any]) -> None:
    def calling(**given: Any) -> Adapt:
        return swallowing(lambda target: (target() if isinstance(target, type) else target)(**given))

    assert count(make(), calling(fails=False)) == 2
    assert count(make(), calling(fails=True)) == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_launch_in_a_thread_that_the_provider_starts_counts(kernel: type) -> None:
    assert count(kernel(), in_thread(lambda kernel: kernel[(1,)]())) == 2


def test_a_call_in_a_thread_that_the_provider_starts_counts() -> None:
    assert count(lambda x: x, in_thread(lambda function: function(1))) == 2
    assert count(torch.nn.Identity(), in_thread(lambda module: module(1))) == 2
    assert count(torch.nn.Identity, in_thread(lambda made: made()(1))) == 2


def test_what_raises_ends_the_call() -> None:
    """A launch after it is none of the provider's."""
    watch = entered.EntryWatch(Launched())
    kept: list[Any] = []

    def adapt(kernel: Any) -> Callable[..., Any]:
        def provider(**given: Any) -> None:
            kept.append(kernel)
            raise RuntimeError

        return provider

    provider = watch.wrap(adapt)
    with watch.watch():
        with pytest.raises(RuntimeError):
            provider()
        kept[0][(1,)]()
    assert watch.entered == 0


def test_a_kernel_gets_its_own_run_back() -> None:
    target = Launched()
    count(target, launching((1,)))
    assert "run" not in vars(target)
    vars(target)["run"] = print
    with entered.EntryWatch(target).watch():
        assert vars(target)["run"] is not print
    assert vars(target)["run"] is print
