"""Proves that the kernels that a number needs were launched, from the record of what was launched.

Pure functions: they compare the names that a job lists with `Launches`.  `scanproof.evaluation.kernels_ran` turns what
is missing into the error of an evaluation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scanproof.kernels.launches import kernel_table
from scanproof.kernels.launches.kernel_table import Kernel
from scanproof.kernels.launches.launched import AutotunerChoice, Launch, Launches

SHOWN = 8
"""Most names that a message lists of what ran instead."""


@dataclass(frozen=True)
class MissingKernel:
    """One needed kernel that is not proved to have run."""

    text: str
    """Which kernel, why, and what ran instead."""
    install: str = ""
    """How to install it; empty if the kernel table does not know it."""


def describe_missing_kernels(missing: Sequence[MissingKernel]) -> str:
    """Say which kernels are missing, one line each, and then how to install them, each command once."""
    lines = [*(kernel.text for kernel in missing), *(kernel.install for kernel in missing if kernel.install)]
    return "\n".join(["kernels that the numbers need did not run", *(f"  {line}" for line in dict.fromkeys(lines))])


def find_missing_kernels(
    needed: Iterable[str], seen: Launches | None, *, installed: bool = True
) -> list[MissingKernel]:
    """Find the needed kernels that are not proved to have run; empty when all are.

    A kernel in the kernel table must have been launched by Triton, or through an entry point of its package's
    extension, and from a file of its package.  A name that only the profiler saw does not prove that, because another
    package may have a kernel of this name.  For a name that the table does not know, any launch is a proof.

    Args:
        needed: names of kernels, or their beginnings, or entry points with their module; twice where two launches are
            needed.
        seen: what was launched; None: not recorded.
        installed: the file must belong to the installed distribution.  False: to the module that `import` finds, for
            example a working copy on PYTHONPATH.
    """
    needed = tuple(needed)
    if not needed:
        return []
    if seen is None:
        return [MissingKernel(f"{name}: the evaluation does not say which kernels it launched") for name in needed]
    missing = (_check_kernel(name, times, seen, installed) for name, times in Counter(needed).items())
    return [each for each in missing if each is not None]


def _check_kernel(name: str, times: int, seen: Launches, installed: bool) -> MissingKernel | None:
    """One needed kernel: None if it is proved to have run so many times."""
    rows = kernel_table.find_kernels(name)
    named = [launch for launch in seen.launched if name in launch.name]
    if not rows:
        return None if named else MissingKernel(f"{name}: not launched. {_describe_instead(seen, ())}")
    launched = [launch for row in rows for launch in _find_launches(row, name, seen)]
    elsewhere = [launch for launch in launched if not _is_from_package(launch, rows, installed)]
    count = sum(launch.count for launch in launched)
    if launched and not elsewhere:
        if count >= times:
            return None
        why = f"launched {count} times, and needed {times} times (a backward pass is one of them)"
        return MissingKernel(f"{name} of {rows[0].distribution}: {why}", _advise_install(rows[0]))
    text = f"{name} of {rows[0].distribution}: {_explain(rows, seen, elsewhere, named)}"
    return MissingKernel(text, _advise_install(rows[0]))


def explain_broken_extensions(needed: Iterable[str], seen: Launches | None) -> list[str]:
    """Name the extensions that a failed job needs and that cannot be imported, which may be why it failed."""
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


def _find_launches(row: Kernel, name: str, seen: Launches) -> list[Launch]:
    """The launches of a kernel by Triton or through its entry points, whatever file it comes from."""
    wanted = kernel_table.entry_points(row)
    if wanted:
        wanted = (name,) if name in wanted else wanted
        return [launch for launch in seen.launched if launch.how == "extension" and launch.name in wanted]
    return [launch for launch in seen.launched if launch.how == "triton" and name in launch.name]


def _is_from_package(launch: Launch, rows: Sequence[Kernel], installed: bool) -> bool:
    """Whether a launched kernel comes from a file of one of its packages."""
    packages = [kernel_table.find_package(row.distribution) for row in rows]
    if installed:
        return launch.distribution in [package.distribution for package in packages]
    return launch.module in [module for package in packages for module in package.modules]


def _explain(rows: Sequence[Kernel], seen: Launches, elsewhere: Sequence[Launch], named: Sequence[Launch]) -> str:
    """Why a kernel is not proved to have run."""
    if elsewhere:
        files = ", ".join(dict.fromkeys(launch.file or "a file that is not known" for launch in elsewhere))
        return f"it came from elsewhere ({files}), not from an installed {rows[0].distribution}"
    extension = kernel_table.find_package(rows[0].distribution).extension
    why = seen.unavailable.get(extension) if rows[0].entries else None
    if why is not None:
        return f"not launched, {extension} cannot be imported ({why}). {_describe_instead(seen, named)}"
    entries = " or ".join(kernel_table.entry_points(rows[0]))
    return f"not launched{f', {entries} was not called' if entries else ''}. {_describe_instead(seen, named)}"


def _describe_instead(seen: Launches, named: Sequence[Launch]) -> str:
    """Say what ran instead: kernels of the same name from elsewhere, or else all kernels that were launched."""
    if named:
        same_name = [f"{launch.name} ({launch.file or 'seen by the profiler only'})" for launch in named[:SHOWN]]
        return f"A kernel of this name ran from elsewhere: {', '.join(same_name)}"
    names = list(dict.fromkeys(launch.name for launch in seen.launched))
    if not names:
        return "Nothing else was seen launched: it was computed without kernels that are watched"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"Launched instead: {', '.join(names[:SHOWN])}{more}"


def _advise_install(row: Kernel) -> str:
    package = kernel_table.find_package(row.distribution)
    return f"install {package.distribution}: {package.advice}"


def compare_choices(before: Launches | None, now: Launches | None) -> list[str]:
    """Compare the autotuner's choices of two evaluations of one job; one line for each choice that changed."""
    if before is None or now is None:
        return []
    old, new = _by_key(before.choices), _by_key(now.choices)
    return [
        f"autotuner: {kernel} chose {settings} for {', '.join(key) or 'every size'}"
        for (kernel, key), config in new.items()
        if (settings := _describe_change(old.get((kernel, key)), config))
    ]


def _by_key(choices: Iterable[AutotunerChoice]) -> dict[tuple[str, tuple[str, ...]], Mapping[str, object]]:
    return {(choice.kernel, choice.key): choice.config for choice in choices}


def _describe_change(old: Mapping[str, object] | None, new: Mapping[str, object]) -> str:
    """Describe a change: `num_warps 8 (4 before)`; empty if the old choice is not known or is the same."""
    if old is None:
        return ""
    return ", ".join(
        f"{name} {new.get(name)} ({old.get(name)} before)"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    )
