"""What `gpu_check.sh` does on a GPU, step by step: the one place where its selections are.

Most valuable first; what may damage a process for all that follows comes last.  flash-attn is not on a bare machine and
takes long to build, so what needs it is left out here, and the summary says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WITHOUT = "not flash and not mamba2attn"
"""What needs flash-attn: its own operations, and the attention of mamba_ssm's hybrid."""
SHARED = "gpu and not own_process"
"""Rows past 2^31 elements each have a process of their own, which a wrong offset ends."""
LEFT_OUT = "flash-attn is not installed by this script: its operations, and mamba2attn-tiny, were left out"
KERNELS = "tests/kernels"
EXTENSIONS = "selective_scan_fn or mamba_inner or causal_conv1d"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing to find out, in a process of its own."""

    name: str
    asks: str
    """The question it answers, for the summary."""
    limit: int
    """Seconds after which it is stopped."""
    tests: tuple[str, ...] = ()
    """pytest's arguments: files, markers, names; none where the step is another command."""
    alone: bool = False
    """Whether the GPU has to be its own: it is timed, or takes most of its memory, or others need its answer first."""
    at_each_call: bool = False
    """Whether it is asked again whatever is known: it is about this machine, of which more counts than is kept."""
    command: tuple[str, ...] = ()
    """Arguments of Python, where it is no selection of tests; `{tools}` and `{root}` are filled in."""

    @property
    def records_latencies(self) -> bool:
        """Whether it leaves a baseline of this GPU."""
        return "--scanproof-record-latency" in self.tests


STEPS = (
    Step(
        name="doctor",
        asks="is everything installed that the other steps need?",
        limit=60,
        alone=True,
        at_each_call=True,
        command=("{tools}/gpu_check.py", "--doctor"),
    ),
    Step(
        name="proof",
        asks="are launched kernels seen, and fallbacks?",
        limit=300,
        tests=(f"{KERNELS}/test_what_is_launched.py", "-m", "gpu"),
    ),
    Step(
        name="extensions",
        asks="are the CUDA extensions as exact as float64 asks?  No autotuning",
        limit=200,
        tests=(f"{KERNELS}/test_numerics.py", "-n4", "-m", SHARED, "-k", f"({EXTENSIONS}) and {WITHOUT} and not long"),
    ),
    Step(
        name="state-update",
        asks="is the decode step as exact?  No autotuning",
        limit=120,
        tests=(f"{KERNELS}/test_numerics.py", "-n4", "-m", SHARED, "-k", f"selective_state_update and {WITHOUT}"),
    ),
    Step(
        name="stand-ins",
        asks="do the stand-ins of every family give their recorded answers through CUDA kernels?",
        limit=600,
        tests=("tests/published", "--scanproof-expected={on_gpu}", "-k", f"tiny and {WITHOUT}"),
    ),
    Step(
        name="bfloat16",
        asks="are SSD, its fused form and the norms as exact in bfloat16?",
        limit=480,
        tests=(
            f"{KERNELS}/test_numerics.py",
            "-n4",
            "-m",
            SHARED,
            "-k",
            f"bfloat16 and (chunk256-l257 or edge or gradients or block or rms) and not ({EXTENSIONS}) and {WITHOUT}",
        ),
    ),
    Step(
        name="modules",
        asks="are modules and whole models right, prefill against decode?",
        limit=480,
        tests=(
            f"{KERNELS}/test_modules.py",
            f"{KERNELS}/test_whole_model.py",
            "-n4",
            "-m",
            "gpu",
            "-k",
            WITHOUT,
        ),
    ),
    Step(
        name="latency",
        asks="how fast is what tunes nothing?  Records this GPU's baseline",
        limit=300,
        alone=True,
        tests=(
            f"{KERNELS}/test_latency.py",
            "-m",
            "gpu and latency",
            "-k",
            "(mamba-130m-b16 or (selective_state_update-decode-mamba2-2.7b or (causal_conv1d_update and d5120)) "
            "and (b1- or b64)) and not fla",
            "--scanproof-expected={on_gpu}",
            "--scanproof-record-latency",
        ),
    ),
    Step(
        name="true-size",
        asks="does shared scoring agree with plain lm_eval at true size, and how fast is it?",
        limit=300,
        alone=True,
        command=(
            "{root}/benchmarks/scoring.py",
            "--device",
            "cuda",
            "--repeats",
            "1",
            "--model",
            "mamba-130m,mamba-2.8b",
            "--tasks",
            "mmlu,hellaswag,arc_easy",
        ),
    ),
    Step(
        name="past-2-31",
        asks="are offsets past 2^31 elements right?  Last: a wrong one ends its process",
        limit=300,
        alone=True,
        tests=(KERNELS, "-m", "gpu and own_process and not latency", "-k", WITHOUT),
    ),
)


def named(names: Sequence[str], table: Sequence[Step] = STEPS) -> list[Step]:
    """The steps of these names, in the order of the table; all for no name.  SystemExit for a name without a step."""
    known = [step.name for step in table]
    if wrong := [name for name in names if name not in known]:
        raise SystemExit(f"gpu_check: no step is named {wrong[0]!r}; there are {', '.join(known)}")
    return [step for step in table if not names or step.name in names]
