"""The rows that stand for the published models have their shapes, and every shape of theirs has a row."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scanproof.kernels import cases
from scanproof.kernels.cases import KernelCase
from scanproof.kernels.latency import latency_cases
from scanproof.numbers.expected import reader
from tests.support import model_shapes, published_configs

EXPECTED = Path(__file__).parents[2] / "expected"
MODELS: dict[str, dict[str, int]] = yaml.safe_load(cases.TABLE.read_text())["models"]
PUBLISHED = sorted(
    {number.hub_id for number in reader.load(EXPECTED).numbers if number.job.suite == "gpu" and number.job.kernels}
    | published_configs.QWEN.keys()
)
"""The models whose numbers need kernels, and those that call operations which no model of a document calls."""
CALLERS = (*PUBLISHED, *published_configs.MODULES)
Shape = tuple[str, frozenset[tuple[str, Any]]]


@functools.cache
def wanted_shapes() -> dict[Shape, set[str]]:
    """Operation and shape -> the models that call it so; not while collecting, because models are of torch."""
    wanted: dict[Shape, set[str]] = {}
    for name in CALLERS:
        for layer in model_shapes.published_layers(name):
            for op, shape in model_shapes.layer_calls(layer):
                wanted.setdefault((op, frozenset(shape.items())), set()).add(name)
    return wanted


@functools.cache
def wanted_keys() -> dict[str, set[str]]:
    """Operation -> what its shape is."""
    return {op: {key for key, _ in shape} for op, shape in wanted_shapes()}


def shape_of(case: KernelCase) -> Shape:
    """The shape of a case, in the words of the models' shapes."""
    layouts = {f"layout of {argument}": layout for argument, layout in case.layouts.items()}
    parts: dict[str, Any] = {**case.options, **layouts, **case.sizes}
    return case.op, frozenset((key, parts.get(key)) for key in wanted_keys().get(case.op, ()))


def cases_of_models() -> Iterator[KernelCase]:
    """The cases that name a model, or whose row is called an evaluation."""
    for case in cases.load():
        if case.name.startswith("evaluation") or any(f"-{model}" in case.name for model in MODELS):
            yield case


def describe(shape: Shape) -> str:
    return f"{shape[0]}: {', '.join(f'{key} {value}' for key, value in sorted(shape[1]) if value is not None)}"


def refuse_others(rows: Iterable[KernelCase]) -> list[str]:
    """One line for each case whose shape no published model has."""
    return sorted({f"{case.id}: {describe(shape_of(case))}" for case in rows if shape_of(case) not in wanted_shapes()})


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_model_that_needs_kernels_has_a_configuration(name: str) -> None:
    assert model_shapes.published_layers(name), "give its configuration a row in tests/support/published_configs.py"


@pytest.mark.parametrize("model", MODELS)
def test_a_model_of_the_table_has_the_sizes_of_a_layer_of_a_published_one(model: str) -> None:
    known = [model_shapes.layer_sizes(layer) for name in CALLERS for layer in model_shapes.published_layers(name)]
    assert [sizes for sizes in known if MODELS[model].items() <= sizes.items()], "no published model has such a layer"


def test_no_row_of_a_model_has_a_shape_that_no_model_has() -> None:
    others = refuse_others(cases_of_models())
    assert not others, "\n".join(others)


def test_no_latency_has_a_shape_that_no_model_has() -> None:
    others = refuse_others(row.case for row in latency_cases.load() if row.place == "gpu")
    assert not others, "\n".join(others)


def test_every_shape_of_a_model_has_a_row() -> None:
    covered = {shape_of(case) for case in cases_of_models()}
    missing = [
        f"{describe(shape)}: {sorted(names)}" for shape, names in wanted_shapes().items() if shape not in covered
    ]
    assert not missing, "\n".join(missing)
