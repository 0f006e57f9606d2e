"""`scanproof prune-plan`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from scanproof.cli.common import Format, FormatOption, print_rows, say, stop

BAR = 40
"""Characters of the longest bar."""


def prune_plan(
    zigzag: Annotated[Path, typer.Option("--zigzag", help="CSV file of a zigzag persistence diagram; may be gzipped.")],
    layers: Annotated[
        int, typer.Option("--layers", min=1, max=100_000, help="Layers of the model, the final norm not counted.")
    ],
    p: Annotated[
        list[float] | None,
        typer.Option("--p", help="Share of the highest similarity. Can be repeated. Default: 0.9 and 0.8."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw it as well: a .svg, .png or .pdf file. Needs matplotlib, the extra `plot`."),
    ] = None,
    style: FormatOption = Format.table,
) -> None:
    """Print the block of layers that zigzag persistence chooses, and the similarity of all layers as bars."""
    from scanproof.models.pruning import blocks, similarity_plot

    thresholds = tuple(dict.fromkeys(p or blocks.THRESHOLDS))
    try:
        if plot is not None:
            similarity_plot.check_target(plot)
        curve = blocks.compute_similarity(blocks.read_zigzag(zigzag), layers, zigzag)
        cuts = {threshold: blocks.choose_block(curve, threshold, zigzag) for threshold in thresholds}
        if plot is not None:
            similarity_plot.draw(plot, curve, cuts, zigzag.name)
    except blocks.PruningError as error:
        raise stop(str(error)) from None
    chosen = [
        {"p": threshold, "start_block": cut.start, "end_block": cut.end, "layers": cut.size}
        for threshold, cut in cuts.items()
    ]
    if style is Format.json:
        say(json.dumps({"zigzag": str(zigzag), "layers": layers, "cuts": chosen, "similarity": curve}, indent=1))
        return
    if style is Format.csv:
        print_rows(chosen, ("p", "start_block", "end_block", "layers"), style)
        return
    say(draw_bars(curve, cuts))
    for threshold, cut in cuts.items():
        say(f"p = {threshold:g}: layers {cut} are removed, {cut.size} of {layers}")
    if plot is not None:
        say(f"drawn in {plot}")


def draw_bars(curve: Sequence[float], cuts: dict[float, Any]) -> str:
    """One line per layer: its similarity as a number and as a bar, and the cuts that it belongs to."""
    titles = [f"p={threshold:g}" for threshold in cuts]
    lines = [f"{'layer':>5}  {'similarity':>10}  {'':<{BAR}}  {'  '.join(titles)}".rstrip()]
    for layer, value in enumerate(curve):
        name = "norm" if layer == len(curve) - 1 else str(layer)
        bar = "█" * round(BAR * value / max(curve))
        pairs = zip(titles, cuts.values(), strict=True)
        marks = "  ".join(f"{'cut' if name != 'norm' and layer in cut else '':<{len(title)}}" for title, cut in pairs)
        lines.append(f"{name:>5}  {value:>10.4f}  {bar:<{BAR}}  {marks}".rstrip())
    return "\n".join(lines)
