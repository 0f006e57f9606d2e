"""`scanproof import-pubmedqa`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scanproof.cli.common import Format, FormatOption, print_result, stop


def import_pubmedqa(
    data: Annotated[Path, typer.Argument(help="Folder `data` of the clone of pubmedqa/pubmedqa, after its split.")],
    mirror: Annotated[Path, typer.Option("--mirror", envvar="SCANPROOF_MIRROR", help="Mirror to add it to.")],
    style: FormatOption = Format.table,
) -> None:
    """Add PubMedQA to a mirror from its authors' files: its repository on the hub is a script, which is not run."""
    from scanproof.evaluation.hub import pubmedqa
    from scanproof.evaluation.hub.mirror import PUBMEDQA

    try:
        counts = pubmedqa.import_pubmedqa(data, mirror)
    except (pubmedqa.PubMedQAError, OSError) as error:
        raise stop(str(error)) from None
    listed = ", ".join(f"{count} in {split}" for split, count in counts.items())
    folder = mirror / PUBMEDQA
    print_result([f"{folder}: questions: {listed}"], [{"folder": str(folder), **counts}], style)
