"""What `scanproof history drift` says beside the drifts, and how it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from scanproof.cli.common import say, stop

if TYPE_CHECKING:
    from scanproof.history.nights import Drifts, OnGpu
    from scanproof.history.store import History


def say_how_much(found: Drifts, *, err: bool) -> None:
    """Say how many nights and series of each GPU were compared, that of the newest night first."""
    if not found.gpus:
        say("0 nights, 0 series compared", err=err)
    for each in found.gpus:
        say(f"{each.gpu}: {each.nights} nights, {each.series} series compared", err=err)


def say_not_looked_at(found: Drifts) -> None:
    """Name the numbers in which no drift can be seen."""
    from scanproof.history.nights import OVER
    from scanproof.history.run_failures import name_some

    if found.over:
        say(
            f"{len(found.over)} numbers had no night for {OVER.days} days, and ten nights followed; not looked at: "
            f"{name_some(found.over)}",
            err=True,
        )
    if found.other_documents:
        say(
            f"{len(found.other_documents)} numbers have too few nights on as many documents as their newest, so that "
            f"no drift of them can be seen: {name_some(found.other_documents)}; measure all documents, or declare a "
            "baseline that has these",
            err=True,
        )


def end(history: History, found: Drifts, fewest: int | None, *, declared: bool) -> None:
    """Raise the exit code where it is not 0.  The newest night's GPU has to have enough nights, no other one."""
    newest = found.gpus[0] if found.gpus else None
    if found.rows:
        raise typer.Exit(1)
    why = explain_too_little(newest, fewest)
    if why is not None:
        raise stop(f"too little to look at in {history.place.name}: {why}")
    if declared and not found.declared:
        raise stop(
            f"no run on this GPU is declared a baseline in {history.place.name}, so that no night is compared with "
            "one: declare a good one, scanproof baseline set latest --reason WHY; or the history that had one is lost, "
            "or another"
        )
    if found.other_documents or any(problem.lost for problem in history.problems):
        raise typer.Exit(1)
    why = explain_no_series(newest)
    if why is not None:
        raise stop(f"too little to look at in {history.place.name}: {why}")


def explain_too_little(newest: OnGpu | None, fewest: int | None) -> str | None:
    """Why the nights of a GPU are too few; None where they are enough."""
    from scanproof.history.drift import SHORTEST

    enough = fewest or 2 * SHORTEST
    if newest is not None and newest.nights >= enough and (fewest or newest.series):
        return None
    where = "one GPU" if newest is None else newest.gpu
    return (
        f"{enough} whole nights on {where} since the declared baseline of a number are needed, with the same "
        "documents; --fewest N is for a history that is younger"
    )


def explain_no_series(newest: OnGpu | None) -> str | None:
    """Why there is no series in nights that are enough for one; None where there is one, or the nights are few."""
    from scanproof.history.drift import SHORTEST

    if newest is None or newest.series or newest.nights < 2 * SHORTEST:
        return None
    return (
        f"{newest.gpu} has {newest.nights} nights, and no number was measured on {2 * SHORTEST} of them, so that no "
        "drift can be seen; the nights that failed say why"
    )
