"""Providers of operations in a session: named by an option, as parameters of tests, watched, and told of at the end."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.plugin.kernel_evidence import CHECKED, ENTERED, LAUNCHED, PROVIDER
from scanproof.printable import LONGEST, make_printable

if TYPE_CHECKING:
    from scanproof.kernels.cases import KernelCase
    from scanproof.kernels.launches.launched import Launch
    from scanproof.kernels.providers.entered import EntryWatch
    from scanproof.kernels.providers.named import Named
    from scanproof.kernels.providers.provider import Provider

FLAG = "--scanproof-provider"
SELECT = "select them: -m provider on the CPU, -m gpu on a GPU"
MARKS = {"cpu": pytest.mark.provider, "interpreter": pytest.mark.interpreted, "gpu": pytest.mark.gpu}
TIMES = "times entered"
"""User property of a test whose provider was entered: how often."""
KERNELS_SHOWN = 4
"""Most names of kernels in a line of the summary."""


def read_names(text: str) -> tuple[Named, ...]:
    """What the option names, not imported yet; raises pytest.UsageError."""
    from scanproof.kernels.providers import named
    from scanproof.kernels.providers.provider import NoProvider

    try:
        return named.parse(text)
    except NoProvider as error:
        raise pytest.UsageError(f"scanproof: {FLAG}: {error}") from None


def resolve_names(names: Iterable[Named]) -> dict[str, Provider]:
    """Import what the option names: operation -> provider; raises pytest.UsageError for what cannot be used."""
    resolved: dict[str, Provider] = {}
    for one in names:
        from scanproof.kernels import cases
        from scanproof.kernels.providers import named
        from scanproof.kernels.providers.provider import NoProvider

        try:
            resolved[one.operation] = named.resolve(one, [case for case in cases.load() if case.op == one.operation])
        except NoProvider as error:
            raise pytest.UsageError(make_printable(f"scanproof: {FLAG} {error}", LONGEST)) from None
    return resolved


def name_providers(names: Iterable[Named], resolved: Mapping[str, Provider]) -> dict[str, str]:
    """Operation -> what was named for it, and where a kernel of the hub came from: for the record of a run."""
    origins = {one.operation: resolved[one.operation].find_origin() for one in names}
    return {one.operation: ": ".join(filter(None, (one.function, origins[one.operation]))) for one in names}


def provider_parameters(rows: Iterable[KernelCase], providers: Iterable[Provider]) -> list[Any]:
    """(case, place, provider) for every case of a provider's operation, in every place where both run.

    What the operation's own package is known to get wrong is nothing that is known of the provider.
    """
    parameters = []
    rows = tuple(rows)
    for provider in providers:
        for row in rows:
            if row.op != provider.operation:
                continue
            case = replace(row, known=provider.find_known(row), raises=None)
            for place in provider.places_of(case):
                marks = [MARKS[place]]
                marks += [pytest.mark.quick] if case.quick and not provider.tuned else []
                if case.alone and place == "gpu":
                    marks.append(pytest.mark.own_process)
                if case.known is not None:
                    from scanproof.plugin.kernel_parameters import known_miss

                    marks.append(known_miss(case.known.because))
                name = f"{case.id}-{place}-{provider.title}"
                parameters.append(pytest.param(case, place, provider, id=name, marks=marks))
    return parameters


@dataclass(frozen=True)
class Provided:
    """A provider that was imported, with what watches it."""

    provider: Provider
    watch: EntryWatch
    function: Callable[..., Any]
    """It takes the operation's arguments by name."""


def load_provider(provider: Provider) -> Provided:
    """Import a provider; raises NoProvider where it is not installed.

    Its Triton kernels, if it has any, run in Triton's interpreter where that was asked for.
    """
    from scanproof.kernels import interpreter
    from scanproof.kernels.providers.entered import EntryWatch

    target = provider.load()
    if os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None:
        interpreter.prepare_triton()
    watch = EntryWatch(target)
    return Provided(provider, watch, watch.wrap(provider.bind))


@contextmanager
def watch_provider(item: pytest.Item, provided: Provided, name: str) -> Iterator[None]:
    """Keep with the test what of a provider is entered and launched in a block; it fails where nothing is.

    A provider has no list of kernels that it has to launch: what it launches is kept, and shown.
    """
    from dataclasses import asdict

    from scanproof.kernels.launches import watcher

    with watcher.observe() as observer, provided.watch.watch():
        yield
    watch, title = provided.watch, provided.provider.title
    launches = observer.launches()
    if not watch.entered and not watch.had_nothing_to_do:
        pytest.fail(f"{name}: {title} was never entered: nothing is known of it", pytrace=False)
    if watch.ended_early:
        pytest.fail(f"{name}: {title} set another function with sys.setprofile: it was not watched", pytrace=False)
    if watch.references:
        pytest.fail(
            f"{name}: {title} computed with scanproof's own reference ({', '.join(watch.references)}): that it agrees "
            "with itself proves nothing",
            pytrace=False,
        )
    if lacking := find_lacking(provided.provider, launches.launched):
        pytest.fail(f"{name}: {title} did not launch its kernels {', '.join(lacking)}", pytrace=False)
    item.user_properties.append((LAUNCHED, [asdict(launch) for launch in launches.launched]))
    item.user_properties.append(("autotuner", [asdict(choice) for choice in launches.choices]))
    origin = provided.provider.find_origin()
    entered = f"{watch.describe()} of {origin}" if origin else watch.describe()
    item.user_properties += [(ENTERED, entered), (TIMES, watch.entered)]


def find_lacking(provider: Provider, launched: Iterable[Launch]) -> list[str]:
    """The kernels that a provider has to launch, and that Triton was not seen to launch from a file of its package."""
    from scanproof.kernels.launches import kernel_table

    if not provider.kernels:
        return []
    modules = kernel_table.find_package(provider.distribution).modules
    names = {launch.name for launch in launched if launch.how == "triton" and launch.module in modules}
    return [kernel for kernel in provider.kernels if kernel not in names]


@dataclass
class Seen:
    """What a session saw of a provider."""

    compared: int = 0
    """Cases that were compared and right, and in which it was entered."""
    idle: int = 0
    """Cases that were right and had nothing to launch."""
    refused: int = 0
    """Cases that it says it cannot do."""
    known: int = 0
    """Cases that it got wrong as it says it does."""
    entered: str = ""
    """The function that was entered."""
    times: int = 0
    kernels: Counter[str] = field(default_factory=Counter)


class ProviderTally:
    """Counts, in the process that decides whether the session is green, what was compared of each named provider."""

    def __init__(self, names: Iterable[Named]) -> None:
        self.seen: Mapping[str, tuple[Named, Seen]] = {one.operation: (one, Seen()) for one in names}

    def see(self, report: pytest.TestReport) -> None:
        """Take in one report."""
        noted: dict[str, Any] = dict(report.user_properties)
        operation = report.nodeid.rpartition("[")[2].partition("-")[0]
        if report.when != "call" or PROVIDER not in noted or operation not in self.seen:
            return
        _, seen = self.seen[operation]
        if report.skipped:
            seen.known += hasattr(report, "wasxfail")
            seen.refused += not hasattr(report, "wasxfail")
        if not report.passed or not {CHECKED, ENTERED} <= noted.keys():
            return
        seen.idle += not noted[TIMES]
        seen.compared += bool(noted[TIMES])
        seen.entered = str(noted[ENTERED]) if noted[TIMES] else seen.entered
        seen.times += noted[TIMES]
        seen.kernels.update(launch["name"] for launch in noted[LAUNCHED])

    def list_unused(self) -> list[str]:
        """The providers of which no case ran and was right."""
        return [str(named) for named, seen in self.seen.values() if not seen.compared]

    def lines(self) -> Iterator[str]:
        """One line for each named provider: what was proven of it."""
        for named, seen in self.seen.values():
            if not seen.compared:
                idle = f", and {seen.idle} had nothing to launch" if seen.idle else ""
                yield f"provider {named}: no case of it ran and was right{idle}; {SELECT}"
                continue
            names = [name for name, _ in seen.kernels.most_common(KERNELS_SHOWN)]
            launched = f"launched {', '.join(names)}" if names else "launched no kernel that is watched"
            proven = f"{seen.compared} cases were compared and right; {seen.entered} was entered {seen.times} times"
            yield f"provider {named}: {proven} and {launched}"
            if seen.idle:
                yield f"  nothing to launch: {seen.idle} cases without an element"
            if seen.refused or seen.known:
                yield f"  not compared: {seen.refused} that it says it cannot do; wrong as it says: {seen.known}"
