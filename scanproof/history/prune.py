"""Making room: whole runs, or their samples only.  Never a baseline's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from scanproof.history import declarations, store
from scanproof.history.store import History, Published


@dataclass(frozen=True)
class Doomed:
    """Something that would be deleted."""

    run: str
    what: str
    """`run`, `samples`, or `unfinished`."""
    size: int
    """Bytes."""


def plan(history: History, before: datetime | None, *, samples_only: bool) -> list[Doomed]:
    """What a run's age condemns, and publications that were stopped; None: only these.

    Runs that a baseline names stay, those that were replaced as well.
    """
    if before is None:
        return unfinished(history)
    kept = {each.run for each in declarations.list_declarations(history)}
    old = [run for run in history.runs() if run.id not in kept and datetime.fromisoformat(run.started) < before]
    if samples_only:
        own = [run for run in old if not run.samples_pruned and not history.place.is_link(f"runs/{run.id}")]
        with_samples = [(run, run.file("samples")) for run in own]
        return [Doomed(run.id, "samples", run.manifest["files"][name]["bytes"]) for run, name in with_samples if name]
    return [Doomed(run.id, "run", total(run)) for run in old] + unfinished(history)


def total(run: Published) -> int:
    return sum(entry["bytes"] for entry in run.manifest["files"].values())


def unfinished(history: History) -> list[Doomed]:
    """Publications that were stopped long ago."""
    sizes: dict[str, dict[str, int]] = {}
    for path, size in history.place.sizes("runs").items():
        run, _, name = path.partition("/")
        sizes.setdefault(run, {})[name] = size
    return [
        Doomed(run, "unfinished", sum(names.values()))
        for run, names in sorted(sizes.items())
        if store.MANIFEST not in names and store.age(run) > store.UNFINISHED
    ]


def carry_out(history: History, doomed: list[Doomed]) -> None:
    """Delete; a run ceases to exist with its manifest, before anything else of it is gone.  Raises HistoryError.

    Of a run that is a link only the link: nobody knows what else lies where it leads.
    """
    runs = {run.id: run for run in history.runs()}
    for condemned in doomed:
        if condemned.what == "samples":
            name = runs[condemned.run].file("samples")
            history.place.add(
                f"runs/{condemned.run}/{store.PRUNED}", store.seal({"format": store.FORMAT, "file": name})
            )
            history.place.remove(f"runs/{condemned.run}/{name}")
            continue
        if history.place.remove_entry(f"runs/{condemned.run}"):
            continue
        history.place.remove(f"runs/{condemned.run}/{store.MANIFEST}")
        for name in history.place.sizes(f"runs/{condemned.run}"):
            history.place.remove(f"runs/{condemned.run}/{name}")
        history.place.tidy(f"runs/{condemned.run}")
