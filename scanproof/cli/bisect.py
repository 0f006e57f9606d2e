"""`scanproof bisect`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scanproof.cli.common import Format, FormatOption, StoreOption, print_rows, say, stop

if TYPE_CHECKING:
    from scanproof.triage.bisect.mixtures import Mixtures
    from scanproof.triage.bisect.search import SearchResult

COLUMNS = ("from_bad", "outcome", "measured", "reused", "because")
WHAT = "a virtual environment, or a lock file (requirements, uv.lock, conda's environment.yml)"


def bisect(
    good: Annotated[str, typer.Option("--good", help=f"Where the number comes out: {WHAT}.")],
    bad: Annotated[str, typer.Option("--bad", help=f"Where it does not: {WHAT}.")],
    number: Annotated[str, typer.Option("--number", help="Id of the number.")],
    test: Annotated[
        str, typer.Option("--test", help="Node id of the test that measures numbers.")
    ] = "tests/published/test_published.py::test_published",
    pytest: Annotated[list[str] | None, typer.Option("--pytest", help="Argument for pytest. Can be repeated.")] = None,
    pip: Annotated[
        list[str] | None,
        typer.Option("--pip", help="Argument for pip install: --pip=--find-links=DIR. Can be repeated."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run mixtures again that are known.")] = False,
    store: StoreOption = Path(".scanproof"),
    style: FormatOption = Format.table,
) -> None:
    """Find the package whose version moves a number: the job is run under mixtures of two environments.

    Each mixture is the good environment's interpreter (this one, where lock files are given) with versions laid over it
    by `pip install --target`.  What was run is remembered in the store; a mixture that cannot be built or breaks is
    unresolved, neither good nor bad.  Exit code 1: no package is named.
    """
    from scanproof.triage.bisect import environments
    from scanproof.triage.bisect.lock_files import EnvironmentProblem
    from scanproof.triage.bisect.mixtures import Mixtures
    from scanproof.triage.bisect.search import search

    try:
        first, second, base = environments.read_both(good, bad)
    except EnvironmentProblem as error:
        raise stop(str(error)) from None
    differ = environments.differences(first, second, base)
    for line in differ.left_out:
        say(f"scanproof: not tried: {line}", err=True)
    mixtures = Mixtures(
        number=number, differences=differ, base=base, root=store, test=test, pytest=tuple(pytest or ()),
        pip=tuple(pip or ()), fresh=fresh, say=lambda text: say(text, err=True),
    )  # fmt: skip
    answer = search(sorted({*differ.good, *differ.bad}), mixtures)
    save_answer(answer, mixtures)
    print_answer(answer, mixtures, style)
    if not answer.packages:
        raise typer.Exit(1)


def save_answer(answer: SearchResult, mixtures: Mixtures) -> None:
    """Leave the answer for `scanproof triage`."""
    from scanproof import files
    from scanproof.triage.evidence import Bisected
    from scanproof.triage.gather import bisected_file

    differ = mixtures.differences
    versions = tuple((name, differ.good.get(name), differ.bad.get(name)) for name in answer.packages)
    bisected = Bisected(packages=answer.packages, alone=answer.alone, versions=versions, because=answer.because)
    files.write_atomically(bisected_file(mixtures.root, mixtures.number), files.to_json(bisected))


def print_answer(answer: SearchResult, mixtures: Mixtures, style: Format) -> None:
    """Print what was tried, and the answer."""
    rows = [
        {
            "from_bad": list(trial.bad), "outcome": trial.outcome.value, "measured": trial.measured,
            "reused": trial.reused, "because": trial.because, "seconds": trial.seconds, "folder": trial.folder,
        }
        for trial in mixtures.tried
    ]  # fmt: skip
    differ = mixtures.differences
    versions = [f"{name} {differ.good.get(name)} -> {differ.bad.get(name)}" for name in answer.packages]
    if style is Format.json:
        say(json.dumps({**asdict(answer), "versions": versions, "tried": rows}, indent=1))
        return
    print_rows(rows, COLUMNS, style)
    if style is Format.table:
        say("\n".join(["", *(f"package: {line}" for line in versions), answer.because]))
