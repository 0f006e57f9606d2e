"""The engine where memory runs out or a pass fails: its batches, its states, and the model afterwards."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import small_scoring as small
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof import scoring
    from scanproof.scoring import batch_limits, network, prefix_tree, schedule
else:
    torch, scoring = Late("torch"), Late("scanproof.scoring")
    schedule, batch_limits = Late("scanproof.scoring.schedule"), Late("scanproof.scoring.batch_limits")
    network, prefix_tree = Late("scanproof.scoring.network"), Late("scanproof.scoring.prefix_tree")

START = list(range(5, 25))
PAIRS = [
    ([*START, first, second], [third, 7]) for first in range(30, 36) for second in (1, 2) for third in (90, 91, 92)
]
"""36 requests that begin with the same tokens: three generations of nodes."""
NAMES = ("mamba2", "llama", "mamba2attn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(autouse=True)
def _every_node(offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every branch stays a node: no node of these short trees is dissolved."""
    monkeypatch.setattr("scanproof.scoring.engine.SLACK", 0.0)


def runs_out(monkeypatch: pytest.MonkeyPatch, most: int, error: Callable[[], Exception], where: str) -> None:
    """Make every batch with more than `most` rows fail."""

    def counted(self: Any, tokens: Any, passing: Any, places: Any) -> Any:
        logits = run(self, tokens, passing, places)
        if len(tokens) > most:
            raise error()
        return logits

    def normalised(logits: Any, **options: Any) -> Any:
        if len(logits) > most:
            raise error()
        return softmax(logits, **options)

    run, softmax = network.Network.run, torch.nn.functional.log_softmax
    if where == "model":
        monkeypatch.setattr("scanproof.scoring.network.Network.run", counted)
    else:
        monkeypatch.setattr("scanproof.scoring.engine.log_softmax", normalised)


ERRORS: dict[str, Callable[[], Exception]] = {
    "of a GPU": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "of torch on a host": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    "of Python": MemoryError,
}


@pytest.mark.parametrize("error", ERRORS)
def test_where_memory_runs_out_half_the_rows_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    lm = small.model(folder, "mamba2attn")
    said: list[str] = []
    wanted = small.one_by_one(lm, PAIRS)
    runs_out(monkeypatch, 5, ERRORS[error], "model")
    with small.installed(lm, say=said.append) as tally:
        answers = lm._loglikelihood_tokens(small.numbered(PAIRS), disable_tqdm=True)
    assert small.apart(wanted, answers) < small.CLOSE
    assert said == tally.notes
    assert said[0] == "out of memory with 6 rows; goes on with 3"
    assert tally.tokens == tally.distinct_tokens


@pytest.mark.parametrize("where", ["model", "softmax"])
def test_it_halves_as_often_as_need_be_down_to_one_row(
    folder: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    lm = small.model(folder, "mamba2")
    # Each leaf has two scored positions, its parent none.
    wanted = small.one_by_one(lm, PAIRS)
    runs_out(monkeypatch, 2 if where == "softmax" else 1, ERRORS["of a GPU"], where)
    answers, tally = small.shared(lm, PAIRS)
    assert small.apart(wanted, answers) < small.CLOSE
    assert tally.notes[-1].endswith("goes on with 1")
    assert len(tally.notes) == len(set(tally.notes)) < 6


def test_one_row_that_does_not_fit_is_the_error_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = small.model(folder, "mamba2")
    runs_out(monkeypatch, 0, ERRORS["of a GPU"], "model")
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        small.shared(lm, PAIRS)


def test_another_error_is_not_taken_for_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = small.model(folder, "mamba2")
    runs_out(monkeypatch, 2, lambda: RuntimeError("CUDA error: an illegal memory access was encountered"), "model")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        small.shared(lm, PAIRS)


@pytest.fixture
def living(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """(bytes of all states in memory, bytes that the engine counts), after each pass."""
    known: list[weakref.ref[Any]] = []
    seen: list[tuple[int, int]] = []
    frame = schedule.Schedule._make_frame

    def noted(self: Any, waiting: Any, size: int) -> Any:
        for each in waiting:
            if each.prefix is not None:
                known.extend(weakref.ref(part) for part in tensors(each.prefix))
        made = frame(self, waiting, size)
        alive = {part.untyped_storage().data_ptr(): part for each in known if (part := each()) is not None}
        seen.append((sum(part.untyped_storage().nbytes() for part in alive.values()), self.held))
        return made

    monkeypatch.setattr("scanproof.scoring.schedule.Schedule._make_frame", noted)
    yield seen
    gc.collect()
    assert known
    assert not [each for each in known if each() is not None], "a state outlives its last child"


def tensors(prefix: Any) -> Iterator[Any]:
    for kept in prefix.kept.values():
        parts = (kept.keys, kept.values, kept.conv) if hasattr(kept, "keys") else (kept.conv, kept.ssm)
        yield from (part for part in parts if part is not None)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("times", [1.0, 1.6, 3.0])
def test_states_stay_below_the_limit_and_are_freed(
    folder: Path, name: str, times: float, living: list[tuple[int, int]]
) -> None:
    """The limit is `times` the least possible memory: one row of each generation on the longest path."""
    lm = small.model(folder, name)
    deep = [([*START, side, *range(60, 60 + level), 90], [7, 8]) for side in (1, 2) for level in range(12)]
    _, one = small.shared(lm, deep, state_bytes=0.0)
    answers, tally = small.shared(lm, deep, state_bytes=times * one.peak_state_bytes)
    assert small.apart(small.one_by_one(lm, deep), answers) < small.CLOSE
    assert one.peak_state_bytes <= tally.peak_state_bytes <= times * one.peak_state_bytes
    assert max(held for _, held in living) == tally.peak_state_bytes
    for alive, held in living:
        assert alive <= held


def test_with_no_memory_one_row_of_each_generation_is_kept(folder: Path) -> None:
    lm = small.model(folder, "mamba2")
    _, tally = small.shared(lm, PAIRS, state_bytes=0.0)
    with network.open_network(lm) as opened:
        assert tally.peak_state_bytes == 3 * opened.kept_bytes(1, 1)


@pytest.mark.parametrize(("name", "states"), [("mamba1", 1), ("mamba2", 0)])
def test_states_that_a_selective_scan_has_at_once_count_for_its_layer(
    folder: Path, name: str, states: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = small.model(folder, name)
    with network.open_network(lm) as opened:
        before = opened.passing_bytes(3, 100)
    made = network.choose_operators
    monkeypatch.setattr(
        "scanproof.scoring.network.choose_operators",
        lambda *args: dataclasses.replace(made(*args), states_at_once=lambda length, size: 5 * length * size),
    )
    with network.open_network(lm) as opened:
        channels, size = lm.model.backbone.layers[0].mixer.A_log.shape if states else (1, 1)
        for length in (4, 100):
            assert opened.passing_bytes(3, length) - before == states * 5 * length * size * channels * size * 4


def test_no_batch_has_more_positions_than_allowed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = small.model(folder, "mamba1")
    shapes = []
    run = network.Network.run

    def noted(self: Any, tokens: Any, *rest: Any) -> Any:
        shapes.append(tuple(tokens.shape))
        return run(self, tokens, *rest)

    monkeypatch.setattr("scanproof.scoring.network.Network.run", noted)
    small.shared(lm, [(context, [*rest, 1, 2]) for context, rest in PAIRS], positions=10)
    assert (1, 20) in shapes
    assert max(rows * length for rows, length in shapes if rows > 1) <= 10
    assert max(rows for rows, _ in shapes) > 3


def everything(model: Any) -> list[tuple[int, str, list[str], Any]]:
    """The class, the attributes and the hooks of each module."""
    hooks = ("_forward_pre_hooks", "_forward_hooks")
    return [
        (id(module), type(module).__name__, sorted(vars(module)), [dict(getattr(module, name)) for name in hooks])
        for module in model.modules()
    ]


@pytest.mark.parametrize("name", [*NAMES, "mamba-7b", "mamba_hybrid", "megatron"])
@pytest.mark.parametrize("ends", ["well", "in a pass", "while telling"])
def test_the_model_is_as_it_was_afterwards(folder: Path, name: str, ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = small.model(folder, name)
    tokens = torch.tensor([START])
    modules, logits = everything(lm.model), lm._model_call(tokens)
    if ends == "in a pass":
        runs_out(monkeypatch, 2, lambda: RuntimeError("planted"), "model")
    if ends == "while telling":
        monkeypatch.setattr(lm.cache_hook, "add_partial", lambda *_: 1 // 0)
    if ends == "well":
        small.shared(lm, PAIRS)
    else:
        with pytest.raises((RuntimeError, ZeroDivisionError)):
            small.shared(lm, PAIRS)
    assert everything(lm.model) == modules
    assert torch.equal(lm._model_call(tokens), logits)
    assert "_loglikelihood_tokens" not in vars(lm)


def test_a_forward_that_somebody_else_hooked_in_stays(folder: Path) -> None:
    lm = small.model(folder, "mamba2")
    mixer = lm.model.backbone.layers[0].mixer
    hooked = mixer.forward
    mixer.forward = hooked
    small.shared(lm, PAIRS)
    assert vars(mixer)["forward"] is hooked


def test_limits_follow_the_batch_size_and_what_is_free(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = small.model(folder, "mamba2", batch_size=3)
    asked = [prefix_tree.Query(tuple(range(length)), (1,)) for length in (4, 11)]
    monkeypatch.setattr("scanproof.scoring.batch_limits.free_bytes", lambda device: 1e12)
    # The model's vocabulary, not the part of it that the tokenizer knows.
    monkeypatch.setattr(lm, "vocab_size", 10)
    logits = 2 * 33 * lm.model.lm_head.out_features * 4
    assert batch_limits.choose_limits(lm, asked) == scoring.Limits(33, logits)
    monkeypatch.setattr("scanproof.scoring.batch_limits.free_bytes", lambda device: 1000.0)
    assert batch_limits.choose_limits(lm, asked) == scoring.Limits(33, 500.0)
    lm.batch_size_per_gpu = "auto"
    assert batch_limits.choose_limits(lm, asked).positions == 64 * 11
    assert batch_limits.choose_limits(lm, []).positions == 64
    # A GPU's memory is one job's.
    monkeypatch.setattr(type(lm), "device", torch.device("cuda"))
    monkeypatch.setattr("scanproof.scoring.batch_limits.free_bytes", lambda device: 1e12)
    assert batch_limits.choose_limits(lm, asked) == scoring.Limits(64 * 11, 0.5e12)


def test_free_memory_is_some_of_the_machines() -> None:
    import psutil

    assert 0 < batch_limits.free_bytes(torch.device("cpu")) < psutil.virtual_memory().total
