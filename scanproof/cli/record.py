"""`scanproof record`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scanproof.cli.common import (
    DocumentOption,
    ExpectedOption,
    Format,
    FormatOption,
    ModelOption,
    StoreOption,
    expected_folder,
    find_run,
    load_expected,
    print_result,
    stop,
)


def record(
    run: Annotated[str, typer.Argument(help="The run: its path, its id, or `latest`.")],
    number: Annotated[
        list[str] | None, typer.Option("--number", help="Only this number, by id. Can be repeated.")
    ] = None,
    document: DocumentOption = None,
    model: ModelOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be written, and stop.")] = False,
    expected: ExpectedOption = None,
    store: StoreOption = Path(".scanproof"),
    style: FormatOption = Format.table,
) -> None:
    """Write the numbers of a trusted run as expected values, where nothing was printed and none is recorded yet.

    Without a choice, all such numbers that the run measured. Refused is a run that failed, is partial or limited, or
    fell back to another device; then nothing is written.
    """
    from scanproof.cli import listing
    from scanproof.history import recording
    from scanproof.record import RecordError, read_run

    loaded = load_expected(expected)
    try:
        shown = read_run(find_run(store, run))
        measured = {entry.id for entry in shown.records}
        chosen = [value for value in loaded.numbers if listing.matches(value, document or [], model or [])]
        if number:
            unknown = sorted(set(number) - {value.id for value in chosen})
            if unknown:
                raise stop(f"--number: there is no number {unknown[0]!r}; `scanproof list --unrecorded` prints the ids")
            wanted = [value for value in chosen if value.id in number]
        else:
            wanted = [value for value in chosen if value.unrecorded and value.id in measured]
        selected = recording.select_numbers(shown, wanted)
        if not selected:
            raise stop(f"run {shown.id} measured no number that is to be recorded")
        files = [] if dry_run else recording.write_numbers(shown, selected, expected_folder(expected))
    except (RecordError, recording.RecordingError) as error:
        raise stop(str(error)) from None
    lines = [*(f"{entry.value.id}: {entry.printed}" for entry in selected), *(f"written to {path}" for path in files)]
    rows = [
        {"number": entry.value.id, "printed": entry.printed, "file": entry.value.file, "written": not dry_run}
        for entry in selected
    ]
    print_result(lines, rows, style)
