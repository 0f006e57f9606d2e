"""Did the kernels run that a number needs?  Pure: what was needed against what was seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scanproof.kernels.launches import kernel_table
from scanproof.kernels.launches.kernel_table import Kernel
from scanproof.kernels.launches.launched import AutotunerChoice, Launch, Launches

SHOWN = 8
"""Names listed of what ran instead."""


@dataclass(frozen=True)
class MissingKernel:
    """One kernel that did not run."""

    text: str
    install: str = ""
    """What brings it; empty where the table knows nothing of it."""


def describe_missing_kernels(found: Sequence[MissingKernel]) -> str:
    """What is missing, one line each, and what to install, once."""
    lines = [*(problem.text for problem in found), *(problem.install for problem in found if problem.install)]
    return "\n".join(["kernels that the numbers need did not run", *(f"  {line}" for line in dict.fromkeys(lines))])


def find_missing_kernels(
    needed: Iterable[str], seen: Launches | None, *, installed: bool = True
) -> list[MissingKernel]:
    """What is missing of the kernels that are needed; empty when all of them ran.

    A kernel that the table knows must have been launched by Triton or through an entry point of its package's
    extension, from a file of the installed distribution; `installed=False` takes the package that `import` finds,
    a working copy on PYTHONPATH say.  The profiler's names alone prove such a kernel no more than that some kernel of
    this name ran.  A name that the table does not know only has to be seen.
    """
    needed = tuple(needed)
    if not needed:
        return []
    if seen is None:
        return [MissingKernel(f"{name}: the evaluation does not say which kernels it launched") for name in needed]
    return [problem for name in needed if (problem := _problem(name, seen, installed)) is not None]


def _problem(name: str, seen: Launches, installed: bool) -> MissingKernel | None:
    rows = kernel_table.find_kernels(name)
    named = [launch for launch in seen.launched if name in launch.name]
    if not rows:
        return None if named else MissingKernel(f"{name}: not launched. {_instead(seen, ())}")
    launched = [launch for row in rows for launch in _launches(row, name, seen)]
    strange = [launch for launch in launched if not _is_home(launch, rows, installed)]
    if launched and not strange:
        return None
    text = f"{name} of {rows[0].distribution}: {_reason(rows, seen, strange, named)}"
    return MissingKernel(text, _install(rows[0]))


def explain_broken_extensions(needed: Iterable[str], seen: Launches | None) -> list[str]:
    """What may have broken a job before it was done: extensions it needs that cannot be imported."""
    if seen is None:
        return []
    rows = {row for name in needed for row in kernel_table.find_kernels(name) if row.entries}
    broken = {row.distribution: kernel_table.find_package(row.distribution).extension for row in rows}
    return [
        f"{extension}, which the job needs, cannot be imported ({seen.unavailable[extension]}); "
        f"install it: {kernel_table.find_package(distribution).advice}"
        for distribution, extension in sorted(broken.items())
        if extension in seen.unavailable
    ]


def _launches(row: Kernel, name: str, seen: Launches) -> list[Launch]:
    """The launches that count as this kernel, wherever its file lies."""
    wanted = kernel_table.entry_points(row)
    if wanted:
        wanted = (name,) if name in wanted else wanted
        return [launch for launch in seen.launched if launch.how == "extension" and launch.name in wanted]
    return [launch for launch in seen.launched if launch.how == "triton" and name in launch.name]


def _is_home(launch: Launch, rows: Sequence[Kernel], installed: bool) -> bool:
    packages = [kernel_table.find_package(row.distribution) for row in rows]
    if installed:
        return launch.distribution in [package.distribution for package in packages]
    return launch.module in [module for package in packages for module in package.modules]


def _reason(rows: Sequence[Kernel], seen: Launches, strange: Sequence[Launch], named: Sequence[Launch]) -> str:
    if strange:
        files = ", ".join(dict.fromkeys(launch.file or "a file that is not known" for launch in strange))
        return f"it came from elsewhere ({files}), not from an installed {rows[0].distribution}"
    extension = kernel_table.find_package(rows[0].distribution).extension
    why = seen.unavailable.get(extension) if rows[0].entries else None
    if why is not None:
        return f"not launched, {extension} cannot be imported ({why}). {_instead(seen, named)}"
    entries = " or ".join(kernel_table.entry_points(rows[0]))
    return f"not launched{f', {entries} was not called' if entries else ''}. {_instead(seen, named)}"


def _instead(seen: Launches, named: Sequence[Launch]) -> str:
    """What ran instead: kernels of the same name from elsewhere, else the names of what was seen."""
    if named:
        told = [f"{each.name} ({each.file or 'seen by the profiler only'})" for each in named[:SHOWN]]
        return f"A kernel of this name ran from elsewhere: {', '.join(told)}"
    names = list(dict.fromkeys(launch.name for launch in seen.launched))
    if not names:
        return "Nothing else was seen launched: it was computed without kernels that are watched"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"Launched instead: {', '.join(names[:SHOWN])}{more}"


def _install(row: Kernel) -> str:
    package = kernel_table.find_package(row.distribution)
    return f"install {package.distribution}: {package.advice}"


def compare_choices(before: Launches | None, now: Launches | None) -> list[str]:
    """How the autotuner's choices differ between two evaluations of one job, one text each."""
    if before is None or now is None:
        return []
    old, new = _by_key(before.choices), _by_key(now.choices)
    return [
        f"autotuner: {kernel} chose {settings} for {', '.join(key) or 'every size'}"
        for (kernel, key), config in new.items()
        if (settings := _difference(old.get((kernel, key)), config))
    ]


def _by_key(choices: Iterable[AutotunerChoice]) -> dict[tuple[str, tuple[str, ...]], Mapping[str, object]]:
    return {(choice.kernel, choice.key): choice.config for choice in choices}


def _difference(old: Mapping[str, object] | None, new: Mapping[str, object]) -> str:
    """`num_warps 8 (4 before)`; empty where nothing is known of before, or nothing changed."""
    if old is None:
        return ""
    return ", ".join(
        f"{name} {new.get(name)} ({old.get(name)} before)"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    )
