"""The scoring engine goes on from states with mamba_ssm's own modules and Triton kernels.

lm-eval is not installed where kernels are interpreted: the engine gets what it reads of an lm-eval model.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.embedded import MIRROR
from scanproof.plugin.kernel_fixtures import Kernels, Proven
from tests.support.forward_kernels import list_forward_kernels
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof import scoring
    from scanproof.kernels import operation_table
    from scanproof.models.against_float64 import whole_model
    from scanproof.models.mamba_in_llama import operations
    from scanproof.scoring import carried_state, network, prefix_tree
else:
    torch, scoring, operation_table = (
        Late("torch"),
        Late("scanproof.scoring"),
        Late("scanproof.kernels.operation_table"),
    )
    whole_model = Late("scanproof.models.against_float64.whole_model")
    operations, network = Late("scanproof.models.mamba_in_llama.operations"), Late("scanproof.scoring.network")
    carried_state, prefix_tree = Late("scanproof.scoring.carried_state"), Late("scanproof.scoring.prefix_tree")

START = [5, 17, 200, 31, 44, 9, 120, 77, 3, 250, 18, 61, 90, 14, 33, 71, 8, 26]
"""Longer than a chunk of the stand-ins, 16."""
REQUESTS = [
    (START, [40, 41]),
    (START, [42]),
    ([*START, 40, 50, 51, 52, 53, 54, 55], [60]),
    ([*START, 40, 50, 51, 52, 53, 54, 55], [61, 62]),
    ([*START, 70, 71, 72], [60, 63]),
]
SCAN = "mamba_chunk_scan_combined"
Answer = tuple[float, bool]


def plain(model: Any) -> list[Answer]:
    """One by one with the model's own forward."""
    found = []
    for context, rest in REQUESTS:
        with torch.no_grad():
            logits = model(torch.tensor([[*context, *rest[:-1]]])).logits[0, -len(rest) :]
        target = torch.tensor(rest)
        values = logits.log_softmax(-1)[torch.arange(len(rest)), target]
        found.append((float(values.sum()), bool((logits.argmax(-1) == target).all())))
    return found


def shared(model: Any) -> tuple[list[Answer], scoring.Tally]:
    """With the engine."""
    lm = SimpleNamespace(model=model, device=torch.device("cpu"), mixed_precision_dtype=None)
    asked = [prefix_tree.Query(tuple([*context, *rest][:-1]), tuple(rest)) for context, rest in REQUESTS]
    tally, answers = scoring.Tally(), dict[int, Answer]()

    def answered(index: int, value: float, greedy: bool) -> None:
        answers[index] = (value, greedy)

    with network.open_network(lm) as opened:
        engine = scoring.Engine(opened, scoring.Limits(10**4, 1e9), None, tally, tally.notes.append)
        engine.score(engine.plan(asked), asked, answered)
    return [answers[index] for index in range(len(REQUESTS))], tally


def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put mamba_ssm's scan where a CPU has its reference; the convolution is a CUDA extension and stays one."""
    choose = operations.operations

    def chosen(device: Any) -> Any:
        return replace(choose(device), **{SCAN: operations.find_installed(operation_table.find_operation(SCAN))})

    monkeypatch.setattr("scanproof.scoring.network.operations", chosen)


@pytest.mark.interpreted
@pytest.mark.parametrize("scanproof_place", ["interpreter"])
def test_mamba2_scores_a_tree_as_one_by_one(
    scanproof_kernels: Kernels, scanproof_proven: Proven, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreted(monkeypatch)
    folder = MIRROR / "scanproof" / "mamba2-tiny"
    model = whole_model.load_kernel_model(folder, torch.float32, torch.device(scanproof_kernels.device))
    wanted = plain(model)
    with scanproof_proven("mamba2-tiny", list_forward_kernels(SCAN)):
        got, tally = shared(model)
    assert apart(wanted, got) < 1e-4
    assert [greedy for _, greedy in got] == [greedy for _, greedy in wanted]
    assert tally.tokens <= 1.08 * tally.distinct_tokens < 0.6 * tally.plain_tokens
    before = carried_state.CarriedState.read_scan_states

    def forgotten(self: Any, slot: int, empty: Any) -> Any:
        state = before(self, slot, empty)
        return replace(state, ssm=torch.zeros_like(state.ssm))

    monkeypatch.setattr("scanproof.scoring.carried_state.CarriedState.read_scan_states", forgotten)
    assert apart(wanted, shared(model)[0]) > 1e-3


def apart(one: list[Answer], other: list[Answer]) -> float:
    return max(abs(a - b) for (a, _), (b, _) in zip(one, other, strict=True))
