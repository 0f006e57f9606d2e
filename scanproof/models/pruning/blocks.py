"""Choose the block of layers to remove from a model: by hand, or by zigzag persistence.  Pure.

Source: Gardinazzi and others, Persistent Topological Features in Large Language Models, arXiv 2410.11042.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from scanproof import files
from scanproof.printable import LONGEST, make_printable

HEADER = "dimension,birth,death"
LATEST = 1_000_000
"""Last time that is read: layers are counted one by one."""
THRESHOLDS = (0.9, 0.8)
"""p of the paper's two cuts, which its benchmark calls 10% and 20%."""


class PruningError(ValueError):
    """A block cannot be removed, or a file chooses none; the message says where the mistake is and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(make_printable(message, LONGEST, lines=True))


@dataclass(frozen=True)
class LayerBlock:
    """Consecutive layers, numbered from 0; both ends are included."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Number of layers in the block."""
        return self.end - self.start + 1

    def __contains__(self, layer: object) -> bool:
        return isinstance(layer, int) and self.start <= layer <= self.end

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"

    def check(self, layers: int) -> None:
        """Raise PruningError unless the block lies in a model of `layers` layers and at least one layer remains."""
        if not 0 <= self.start <= self.end < layers:
            raise PruningError(
                f"start_block={self.start}, end_block={self.end}: the model's layers are 0 to {layers - 1}; "
                f"both ends are removed, and the first may not lie behind the last"
            )
        if self.size == layers:
            raise PruningError(f"start_block={self.start}, end_block={self.end}: this is every layer of the model")


@dataclass(frozen=True)
class Bars:
    """Equal intervals of a zigzag persistence diagram.

    Time 2l + 1 is layer l; an even time is the intersection of the two layers beside it.
    """

    dimension: int
    birth: int
    death: int
    """The first time at which the feature no longer exists."""
    count: int

    @property
    def first_layer(self) -> int:
        """b' = ceil((birth - 1) / 2), the first layer that has the feature."""
        return self.birth // 2

    @property
    def last_layer(self) -> int:
        """d' - 1 with d' = ceil((death - 1) / 2); below `first_layer` when no layer has the feature."""
        return self.death // 2 - 1


def read_zigzag(path: Path) -> tuple[Bars, ...]:
    """The intervals of a CSV file with the header `dimension,birth,death`, gzipped or not.

    Raises:
        PruningError: the file cannot be read, or a line is wrong; names the file and the line.
    """
    read = files.read_gzip if path.suffix == ".gz" else files.read_bytes
    try:
        text = read(path).decode("utf-8")
    except FileNotFoundError:
        raise PruningError(f"{path}: there is no such file; name the zigzag CSV of the model") from None
    except (OSError, ValueError) as error:
        raise PruningError(f"{path}: cannot be read as a CSV file: {error}") from error
    first, counts = _count_rows(path, io.StringIO(text))
    return tuple(_bars(path, first[row], row, count) for row, count in counts.items())


def _count_rows(path: Path, lines: TextIO) -> tuple[dict[str, int], dict[str, int]]:
    """Row -> its first line, and row -> how often it occurs: a file has 200,000 lines, but 2,000 different rows."""
    header = lines.readline().strip().lstrip("\ufeff")
    if header != HEADER:
        raise PruningError(f"{path}:1: the header is {header[:60]!r}; a zigzag file begins with {HEADER}")
    first: dict[str, int] = {}
    counts: dict[str, int] = {}
    for number, line in enumerate(lines, 2):
        row = line.strip()
        if row:
            first.setdefault(row, number)
            counts[row] = counts.get(row, 0) + 1
    return first, counts


def _bars(path: Path, line: int, row: str, count: int) -> Bars:
    try:
        dimension, birth, death = map(int, row.split(","))
    except ValueError:
        raise PruningError(f"{path}:{line}: {row[:60]!r} is not three integers: {HEADER}") from None
    if death > LATEST:
        raise PruningError(f"{path}:{line}: {row[:60]!r}: no model has a layer at that time")
    if dimension < 0:
        raise PruningError(f"{path}:{line}: dimension {dimension} is negative")
    if birth < 1:
        raise PruningError(f"{path}:{line}: birth {birth}: times begin with 1, which is layer 0")
    if death <= birth:
        raise PruningError(f"{path}:{line}: the interval dies at {death}, not after its birth at {birth}")
    return Bars(dimension, birth, death, count)


def compute_similarity(bars: Iterable[Bars], layers: int, path: Path) -> tuple[float, ...]:
    """r(i) for i = 0 .. layers: the share of a layer's 1-dimensional features that layer i has too, on average.

    With L = layers + 1, because the output of the final norm counts as a layer:
    r(i) = 1/L sum_j S(i, j) / beta1(j), where S(i, j) counts the features that exist in all layers from i to j, and
    beta1(j) those that exist in layer j.  A feature that spans layers a .. b adds 1 to S(i, j) for each pair of these
    layers, so r is summed feature by feature.

    Raises:
        PruningError: there is no 1-dimensional interval, the number of layers is another, or a layer has no feature.
    """
    bars = tuple(bars)
    ones = [bar for bar in bars if bar.dimension == 1]
    if not ones:
        raise PruningError(f"{path}: no interval of dimension 1; the similarity of layers is counted on those")
    _check_times(bars, layers, path)
    alive = [0] * (layers + 1)
    for bar in ones:
        for layer in range(bar.first_layer, bar.last_layer + 1):
            alive[layer] += bar.count
    if 0 in alive:
        raise PruningError(
            f"{path}: no interval of dimension 1 is alive at layer {alive.index(0)}, so its similarity is undefined"
        )
    curve = [0.0] * (layers + 1)
    for bar in ones:
        spanned = range(bar.first_layer, bar.last_layer + 1)
        weight = bar.count * math.fsum(1 / alive[layer] for layer in spanned)
        for layer in spanned:
            curve[layer] += weight
    return tuple(total / (layers + 1) for total in curve)


def _check_times(bars: Iterable[Bars], layers: int, path: Path) -> None:
    """Raise PruningError unless the last interval ends at 2L, as in a complete file: a component lives to the end."""
    last = max(bar.death for bar in bars)
    if last != 2 * (layers + 1):
        meaning = f"which is that of {last // 2 - 1} layers" if last % 2 == 0 else "which no complete file has"
        raise PruningError(
            f"{path}: the last interval ends at time {last}, {meaning}; a model of {layers} layers ends at "
            f"{2 * (layers + 1)} (two times for each layer and for the final norm)"
        )


def choose_block(curve: Sequence[float], p: float, path: Path) -> LayerBlock:
    """The block of layers whose similarity is at least p times the highest; it never includes the final norm.

    Raises:
        PruningError: p is out of range, or these layers are not consecutive.
    """
    if not 0 < p <= 1:
        raise PruningError(f"p={p:g}: expected a share of the highest similarity, above 0 and at most 1")
    chosen = [layer for layer, value in enumerate(curve[:-1]) if value >= p * max(curve)]
    if not chosen:
        raise PruningError(f"{path}: no layer has {p:g} of the highest similarity, which is the final norm's")
    block = LayerBlock(chosen[0], chosen[-1])
    if block.size != len(chosen):
        listed = ", ".join(str(part) for part in group_layers(chosen))
        raise PruningError(
            f"{path}: the layers with {p:g} of the highest similarity are {listed}, not one block; "
            f"take another p, or choose one of them with start_block and end_block"
        )
    return block


def group_layers(layers: Sequence[int]) -> Iterator[LayerBlock]:
    """Group rising layer numbers into blocks of consecutive ones."""
    start = 0
    for index in range(1, len(layers) + 1):
        if index == len(layers) or layers[index] != layers[index - 1] + 1:
            yield LayerBlock(layers[start], layers[index - 1])
            start = index


def choose_by_persistence(path: Path, layers: int, p: float) -> LayerBlock:
    """The block that a zigzag file and p choose for a model of `layers` layers; raises PruningError."""
    return choose_block(compute_similarity(read_zigzag(path), layers, path), p, path)
