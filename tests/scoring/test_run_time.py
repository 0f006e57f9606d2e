"""The estimate of a call's time with either engine, and plain in the place of shared where that is not quicker."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import small_scoring as small
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof import scoring
    from scanproof.evaluation.worker import run as worker
    from scanproof.scoring import engine, network, prefix_tree, run_time, scans, schedule
else:
    torch, scoring, worker = Late("torch"), Late("scanproof.scoring"), Late("scanproof.evaluation.worker.run")
    engine, network = Late("scanproof.scoring.engine"), Late("scanproof.scoring.network")
    run_time, scans = Late("scanproof.scoring.run_time"), Late("scanproof.scoring.scans")
    schedule, prefix_tree = Late("scanproof.scoring.schedule"), Late("scanproof.scoring.prefix_tree")

START = list(range(5, 65))
ALIKE = [([*START, first, second], [third, 7]) for first in (30, 31) for second in (1, 2, 3) for third in (90, 91, 92)]
APART = [([first, 5, 6, 7], [8]) for first in range(100, 118)]
"""Requests without a common beginning: nothing is saved."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run_time")


pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of the CPU cost what a GPU's do."""
    monkeypatch.setitem(run_time.SPEEDS, "cpu", run_time.SPEEDS["cuda"])


def queries(pairs: Sequence[tuple[list[int], list[int]]]) -> list[prefix_tree.Query]:
    """The pairs as the engine takes them."""
    return [prefix_tree.Query(tuple([*context, *rest][:-1]), tuple(rest)) for context, rest in pairs]


def scored(lm: Any, pairs: Sequence[Any], **options: Any) -> tuple[list[Any], scoring.Tally, list[str]]:
    """The answers of the engine or of plain, whichever `install` lets answer, and what was said."""
    said: list[str] = []
    tally = scoring.install(lm, said.append, **options)
    try:
        return lm._loglikelihood_tokens(small.numbered(pairs), disable_tqdm=True), tally, said
    finally:
        del lm._loglikelihood_tokens, lm.loglikelihood


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_where_nothing_is_saved_lm_evals_own_path_answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = small.model(folder, "mamba2")
    wanted = small.plain(lm, APART)
    monkeypatch.setattr("scanproof.scoring.Engine.score", lambda *_: pytest.fail("the engine ran"))
    answers, tally, said = scored(lm, APART)
    assert answers == wanted
    assert tally.declined is not None
    assert tally.declined.startswith("shared is not estimated to be quicker on this device: ")
    assert said == [f"scored plain: {tally.declined}"]
    assert (tally.tokens, tally.sampled) == (0, [])


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_the_first_call_decides_for_all(folder: Path) -> None:
    lm = small.model(folder, "mamba2")
    lm.batch_size_per_gpu = 4
    for first, second in ((APART, ALIKE), (ALIKE, APART)):
        said: list[str] = []
        tally = scoring.install(lm, said.append)
        lm._loglikelihood_tokens(small.numbered(first), disable_tqdm=True)
        ran = tally.tokens
        lm._loglikelihood_tokens(small.numbered(second), disable_tqdm=True)
        del lm._loglikelihood_tokens, lm.loglikelihood
        assert (tally.declined is not None) == (first is APART) == bool(said)
        assert (ran > 0, tally.tokens > ran) == ((False, False) if first is APART else (True, True))


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_what_is_asked_for_always_is_not_estimated(folder: Path) -> None:
    lm = small.model(folder, "mamba2")
    answers, tally, said = scored(lm, APART, always=True)
    assert (tally.declined, said) == (None, [])
    assert tally.tokens == tally.plain_tokens
    assert small.apart(small.one_by_one(lm, APART), answers) < small.CLOSE


def test_on_a_cpu_nothing_is_launched_and_shared_answers(folder: Path) -> None:
    _, tally, said = scored(small.model(folder, "mamba2"), APART)
    assert (tally.declined, said) == (None, [])
    assert tally.tokens == tally.plain_tokens


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_a_worker_records_why_plain_scored(folder: Path) -> None:
    lm = small.model(folder, "mamba2")
    describe = worker.use_shared_engine(lm)
    lm._loglikelihood_tokens(small.numbered(APART), disable_tqdm=True)
    del lm._loglikelihood_tokens, lm.loglikelihood
    told = describe()
    assert (told.engine, told.scoring) == ("plain", None)
    assert told.because is not None
    assert "shared is not estimated to be quicker" in told.because


@pytest.mark.parametrize(
    ("name", "state_bytes"),
    # Before its first pass the keys of llama are only bounded; with little memory that would be more passes.
    [("mamba1", 3e4), ("mamba1", 1e12), ("mamba2attn", 3e4), ("mamba2attn", 1e12), ("llama", 1e12)],
)
def test_the_passes_are_those_that_run(
    folder: Path, name: str, state_bytes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = small.model(folder, name)
    shapes: list[tuple[int, int, int]] = []
    run = network.Network.run

    def noted(self: Any, tokens: Any, carried: Any, places: Any) -> Any:
        nodes = run_time.count_nodes(carried.prefixes)
        shapes.append((*tokens.shape, nodes))
        return run(self, tokens, carried, places)

    monkeypatch.setattr("scanproof.scoring.network.Network.run", noted)
    estimates: list[run_time.CallCost] = []
    score = engine.Engine.score

    def estimated(self: Any, tree: Any, *rest: Any) -> None:
        estimates.append(run_time.estimate_shared(self.network, self._make_schedule(), tree))
        score(self, tree, *rest)

    monkeypatch.setattr("scanproof.scoring.engine.Engine.score", estimated)
    small.shared(lm, ALIKE + APART, state_bytes=state_bytes)
    (estimate,) = estimates
    with network.open_network(lm) as opened:
        each, attending = run_time.count_launches(opened, run_time.SHARED), len(run_time.find_attention(opened))
    assert attending == {"mamba1": 0, "mamba2attn": 1, "llama": 5}[name]
    assert estimate.passes == len(shapes) > 1
    assert estimate.positions == sum(rows * length for rows, length, _ in shapes)
    segments = attending * run_time.SHARED.segment * sum(nodes for *_, nodes in shapes)
    assert estimate.launches == each * len(shapes) + segments


def test_plains_batches_are_those_of_lm_eval(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = small.model(folder, "mamba2")
    shapes: list[torch.Size] = []
    call = lm._model_call

    def noted(tokens: Any, **options: Any) -> Any:
        shapes.append(tokens.shape)
        return call(tokens, **options)

    monkeypatch.setattr(lm, "_model_call", noted)
    pairs = [*ALIKE, *APART, *ALIKE[:3]]
    small.plain(lm, pairs, 4)
    requests = queries(pairs)
    with network.open_network(lm) as opened:
        estimate = run_time.estimate_plain(opened, requests, 4)
    assert estimate.passes == len(shapes)
    assert estimate.positions == sum(shape.numel() for shape in shapes)


def test_more_memory_and_dearer_passes_make_fewer_passes(folder: Path) -> None:
    """What went wrong on the first GPU: the memory of states was that of another vocabulary."""
    lm = small.model(folder, "mamba1")
    requests = queries(ALIKE)
    with network.open_network(lm) as opened:
        counts = []
        for size in (0.0, 1e5, 1e12):
            limits = schedule.Limits(10**6, size)
            made = engine.Engine(opened, limits, None, engine.Tally(), pytest.fail)
            tree = made.plan(requests)
            counts.append(run_time.estimate_shared(opened, made._make_schedule(), tree).passes)
    assert counts[0] > counts[1] > counts[2] > 0


SILENT = frozenset({
    "view", "t", "transpose", "permute", "slice", "split", "split_with_sizes", "unsqueeze", "squeeze", "expand",
    "select", "alias", "detach", "_unsafe_view", "unbind", "as_strided", "diagonal", "empty", "empty_like",
    "new_empty", "empty_strided", "promote_types",
})  # fmt: skip
"""Operations that launch no kernel."""
SSD_KERNELS = 7


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch, most: Counter[str]) -> Iterator[None]:
    """Keep the most launches of a mixer of each kind in a pass; a kernel of an operation is one, SSD is seven."""
    from torch.utils._python_dispatch import TorchDispatchMode

    # torch does not annotate it.
    mode: Any = TorchDispatchMode

    class Counting(mode):  # type: ignore[misc]
        launched, inside = 0, False

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if not self.inside and function.overloadpacket.__name__ not in SILENT:
                self.launched += 1
            return function(*args, **(kwargs or {}))

    count = Counting()

    def as_one(operation: Any, kernels: int = 1) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            count.launched += kernels
            count.inside = True
            try:
                return operation(*args, **options)
            finally:
                count.inside = False

        return call

    choose, mix = network.choose_operators, network.Network.mix

    def chosen(*args: Any) -> Any:
        operators = choose(*args)
        ssd = as_one(operators.ops.mamba_chunk_scan_combined, SSD_KERNELS)
        return dataclasses.replace(
            operators,
            ops=dataclasses.replace(operators.ops, mamba_chunk_scan_combined=ssd),
            convolution=as_one(operators.convolution),
            scan=scans.add_first_state(as_one(operators.ops.selective_scan_fn)),
            states_at_once=scans.states_at_once,
        )

    def mixed(self: Any, slot: int, mixer: Any, kind: Any, *args: Any, **options: Any) -> Any:
        count.launched = 0
        with count:
            out = mix(self, slot, mixer, kind, *args, **options)
        segments = 0 if kind.form else run_time.SHARED.segment * len(self._carried._prefix_nodes)
        most[kind.name] = max(most[kind.name], count.launched - segments)
        return out

    monkeypatch.setattr("scanproof.scoring.network.choose_operators", chosen)
    monkeypatch.setattr("scanproof.scoring.network.Network.mix", mixed)
    yield


@pytest.mark.parametrize(
    "name", ["mamba1", "mamba2attn", "odd", "mamba-7b", "mamba_hybrid", "mamba2_hybrid", "megatron"]
)
def test_a_mixer_launches_no_more_kernels_than_the_estimate_says(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long its rows, and however many: each further launch is paid in every layer of every pass."""
    lm = small.model(folder, name)
    most: Counter[str] = Counter()
    long = [([*range(5, 205), first], [second, 3]) for first in range(300, 310) for second in (1, 2)]
    with counting(monkeypatch, most):
        small.shared(lm, [*ALIKE, *APART, *long])
    assert most
    for kind in network.KINDS:
        if kind.name in most:
            allowed = run_time.SHARED.scan if kind.form else run_time.SHARED.attention
            assert 0.6 * allowed <= most[kind.name] <= allowed
