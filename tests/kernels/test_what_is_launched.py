"""A kernel test proves that its operation launched its kernels: a fallback with right numbers fails."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scanproof.kernels.cases import load
from scanproof.plugin.kernel_fixtures import Kernels, Missing, Proven, Require
from scanproof.plugin.kernel_parameters import MARKS

PLACES = [pytest.param(place, marks=mark) for place, mark in MARKS.items()]
SMALL = next(case for case in load() if case.id == "mamba_chunk_scan_combined-gradients-l1-float32")


@pytest.mark.parametrize("scanproof_place", PLACES)
class TestProof:
    def test_the_real_operation_launches_its_kernels_forward_and_backward(
        self,
        scanproof_kernels: Kernels,
        scanproof_require: Require,
        scanproof_proven: Proven,
        request: pytest.FixtureRequest,
    ) -> None:
        from scanproof.kernels import compare, operation_table

        op = operation_table.find_operation(SMALL.op)
        scanproof_require(op, SMALL)
        with scanproof_proven(SMALL.id, op.needed_kernels(SMALL)):
            compare.run_op(
                op,
                SMALL,
                compare.draw_inputs(op, SMALL, scanproof_kernels.device),
                scanproof_kernels.call(op),
                scanproof_kernels.device,
            )
        kept: dict[str, Any] = dict(request.node.user_properties)
        launched = {launch["name"]: launch for launch in kept["launched"]}
        assert launched["_chunk_scan_fwd_kernel"]["count"] >= 1
        assert launched["_chunk_scan_fwd_kernel"]["file"].endswith("ssd_chunk_scan.py")
        assert launched["_chunk_scan_fwd_kernel"]["module"] == "mamba_ssm"
        assert launched["_state_passing_bwd_kernel"]["how"] == "triton"
        chosen = {choice["kernel"]: choice["config"] for choice in kept["autotuner"]}
        assert chosen["_chunk_scan_fwd_kernel"].keys() >= {"BLOCK_SIZE_M", "num_warps", "num_stages"}
        assert json.loads(json.dumps(kept["autotuner"])), "it goes into records and JUnit files"

    def test_a_fallback_to_plain_pytorch_fails_though_its_numbers_are_right(
        self, scanproof_kernels: Kernels, scanproof_require: Require, scanproof_proven: Proven
    ) -> None:
        from scanproof.kernels import compare, operation_table

        op = operation_table.find_operation(SMALL.op)
        scanproof_require(op, SMALL)
        found = compare.compare_case(op, SMALL, op.reference, scanproof_kernels.device)
        assert compare.describe_failures(SMALL, found) == ""
        with pytest.raises(pytest.fail.Exception) as raised, scanproof_proven(SMALL.id, op.needed_kernels(SMALL)):
            compare.compare_case(op, SMALL, op.reference, scanproof_kernels.device)
        assert "_chunk_scan_fwd_kernel of mamba-ssm: not launched" in str(raised.value)
        assert "_state_passing_bwd_kernel of mamba-ssm: not launched" in str(raised.value)
        assert "pip install --no-build-isolation --no-cache-dir 'mamba-ssm>=2.2.2'" in str(raised.value)


@pytest.mark.interpreted
def test_what_the_autotuner_chose_is_kept_for_each_of_its_keys(
    scanproof_interpreter: str | None, scanproof_missing: Missing
) -> None:
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    import torch

    from scanproof.kernels.launches import watcher
    from tests.support import tuned_kernel

    tuned_kernel.double(torch.ones(5))
    with watcher.observe() as observer:
        for length in (8, 16):
            assert tuned_kernel.double(torch.ones(length)).tolist() == [2.0] * length
    seen = observer.launches()
    found = {choice.key: choice.config["BLOCK"] for choice in seen.choices if choice.kernel == "double_kernel"}
    assert found == {(str(length), "torch.float32", "torch.float32"): tuned_kernel.FASTEST for length in (5, 8, 16)}
    assert [launch.name for launch in seen.launched] == ["double_kernel"]
    assert seen.launched[0].file == tuned_kernel.__file__


@pytest.mark.interpreted
def test_an_autotuner_chooses_at_the_size_that_is_timed_and_keeps_it_for_the_check(
    scanproof_interpreter: str | None,
    scanproof_missing: Missing,
) -> None:
    """Its key holds no size: whoever comes first chooses for all."""
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    import torch

    from scanproof.kernels.latency import tuning
    from tests.support import tuned_kernel

    small, large = torch.ones(8), torch.ones(100)
    tuned_kernel.triple(small)
    tuner = tuned_kernel.triple_kernel
    tuner.cache_results = True
    try:
        for timed, block in ((large, 32), (small, 16), (large, 32)):
            (choice,) = tuning.choose(lambda x=timed: tuned_kernel.triple(x))  # type: ignore[misc]
            assert (choice.kernel, choice.key) == ("triple_kernel", ("torch.float32", "torch.float32"))
            assert choice.config["BLOCK"] == block
            # What is checked and timed afterwards, at whatever size, is what was chosen.
            for x in (small, large):
                assert tuned_kernel.triple(x).tolist() == [3.0] * x.numel()
            assert [each.kwargs["BLOCK"] for each in tuner.cache.values()] == [block]
            assert tuner.cache_results, "what may lie on the disk is left aside only while it chooses"
    finally:
        tuner.cache_results = False


@pytest.mark.gpu
def test_the_profiler_names_a_kernel_that_ran_before_the_first_batch_ended_and_none_after(
    scanproof_missing: Missing,
) -> None:
    import torch

    from scanproof.kernels import device
    from scanproof.kernels.launches import profiler, watcher

    if reason := device.why_no_gpu():
        scanproof_missing(reason)
    observer = watcher.Observer()
    profile = profiler.FirstBatch(observer)
    profile.start()
    torch.rand(64, 64, device="cuda").sort()
    profile.stop()
    torch.rand(64, device="cuda").cumsum(0)
    seen = observer.launches()
    assert seen.unprofiled is None
    assert any("sort" in launch.name.lower() for launch in seen.launched), seen.launched
    assert all(launch.how == "profiler" and launch.count >= 1 for launch in seen.launched)
