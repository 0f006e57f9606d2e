from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanproof.errors import EvaluationError
from scanproof.evaluation import kernels_ran
from scanproof.files import from_json, to_json
from scanproof.kernels.launches import kernel_table, proof
from scanproof.kernels.launches.launched import AutotunerChoice, How, Launch, Launches
from scanproof.record import Evaluation
from tests.support.builders import JOB

SCAN, SSD = "selective_scan_fwd_kernel", "_chunk_scan_fwd_kernel"
SITE = "/usr/lib/python3/site-packages"
HUB = "/home/me/.cache/huggingface/hub/models--kernels-community--mamba-ssm/snapshots/1f/ssd_chunk_scan.py"


def entry(
    name: str = "selective_scan_cuda.fwd", distribution: str | None = "mamba-ssm", module: str | None = None
) -> Launch:
    file = f"{SITE}/{name.partition('.')[0]}.so"
    return Launch(name=name, how="extension", count=48, file=file, distribution=distribution, module=module)


def triton(name: str = SSD, file: str = f"{SITE}/mamba_ssm/ssd.py", distribution: str | None = "mamba-ssm") -> Launch:
    return Launch(name=name, how="triton", count=48, file=file, distribution=distribution)


def profiled(name: str) -> Launch:
    return Launch(name=name, how="profiler", count=24)


def problem(needed: str, *launched: Launch, **fields: object) -> str:
    """The text of the only missing kernel; empty when none is missing."""
    found = proof.find_missing_kernels((needed,), replace(Launches(launched=launched), **fields))  # type: ignore[arg-type]
    assert len(found) <= 1
    return "".join(f"{each.text}; {each.install}" for each in found)


@pytest.mark.parametrize(("count", "missing"), [(1, 1), (2, 0), (48, 0)])
def test_a_kernel_that_is_needed_twice_has_to_be_launched_twice(count: int, missing: int) -> None:
    """Where the backward pass launches the kernel of the forward pass, one launch proves one of them."""
    name = "rotary_kernel"
    seen = Launches(launched=(replace(triton(name, distribution="flash-attn"), count=count),))
    found = proof.find_missing_kernels((name, name), seen)
    assert len(found) == missing
    assert all(f"{name} of flash-attn: launched 1 times, and needed 2 times" in each.text for each in found)


@pytest.mark.parametrize(
    ("needed", "launch"),
    [
        (SCAN, entry()),
        ("causal_conv1d_channellast_fwd_kernel", entry("causal_conv1d_cuda.causal_conv1d_fwd", "causal-conv1d")),
        ("causal_conv1d", entry("causal_conv1d_cuda.causal_conv1d_fwd", "causal-conv1d")),
        ("flash_fwd_kernel", entry("flash_attn_2_cuda.varlen_fwd", "flash-attn")),
        ("selective_scan_cuda.bwd", entry("selective_scan_cuda.bwd")),
        (SSD, triton()),
        ("rotary_kernel", triton("rotary_kernel", distribution="flash-attn")),
        ("a_kernel_of_a_new_package", profiled("a_kernel_of_a_new_package")),
    ],
)
def test_a_kernel_launched_from_its_package_is_proven(needed: str, launch: Launch) -> None:
    assert problem(needed, launch) == ""
    assert needed.partition(".")[0] in problem(needed), "and not without it"


@pytest.mark.parametrize(
    ("needed", "launch"),
    [
        (SCAN, entry("selective_scan_cuda.bwd")),
        ("selective_scan_cuda.fwd", entry("selective_scan_cuda.bwd")),
        ("causal_conv1d_update_kernel", entry("causal_conv1d_cuda.causal_conv1d_fwd", "causal-conv1d")),
        (SSD, triton("_chunk_state_fwd_kernel")),
        (
            "causal_conv1d",
            triton("_causal_conv1d_varlen_states", f"{SITE}/causal_conv1d/causal_conv1d_varlen.py", "causal-conv1d"),
        ),
    ],
)
def test_another_kernel_of_the_same_package_proves_nothing(needed: str, launch: Launch) -> None:
    assert "not launched" in problem(needed, launch)


def test_a_fallback_names_what_is_missing_why_what_ran_and_the_install_flag() -> None:
    text = problem(SCAN, profiled("elementwise_kernel"), unavailable={"selective_scan_cuda": "undefined symbol: _ZN3"})
    assert text.startswith(f"{SCAN} of mamba-ssm: not launched")
    assert "selective_scan_cuda cannot be imported (undefined symbol: _ZN3)" in text
    assert "Launched instead: elementwise_kernel" in text
    assert "pip install --no-build-isolation --no-cache-dir 'mamba-ssm>=2.2.2'" in text
    assert "MAMBA_KEEP_CUDA_BUILD=TRUE" in text
    assert "add --force-reinstall --no-deps" in text, "pip leaves a package without its kernels as it is"


def test_a_hub_kernel_of_the_same_name_is_no_proof() -> None:
    text = problem(SSD, triton(file=HUB, distribution=None))
    assert "it came from elsewhere" in text
    assert HUB in text
    mixed = problem(SSD, triton(), triton(file=HUB, distribution=None))
    assert HUB in mixed, "also where other layers used the installed one"


def test_a_kernel_that_only_the_profiler_saw_came_from_elsewhere() -> None:
    text = problem("flash_fwd_kernel", profiled("pytorch_flash::flash_fwd_kernel"))
    assert "flash_attn_2_cuda.fwd" in text
    assert "ran from elsewhere: pytorch_flash::flash_fwd_kernel" in text
    assert "causal_conv1d_fwd_kernel (/x/fla/conv.py)" in problem(
        "causal_conv1d_fwd_kernel", triton("causal_conv1d_fwd_kernel", "/x/fla/conv.py", None)
    )


def test_a_working_copy_counts_only_where_that_is_said() -> None:
    seen = Launches(launched=(entry(distribution=None, module="selective_scan_cuda"),))
    assert proof.find_missing_kernels((SCAN,), seen)
    assert proof.find_missing_kernels((SCAN,), seen, installed=False) == []
    assert proof.find_missing_kernels((SCAN,), Launches(launched=(entry(module=None),)), installed=False)


def test_whoever_evaluates_has_to_say_what_was_launched() -> None:
    job = replace(JOB, kernels=(SCAN, SSD))
    evaluation = Evaluation(job=job, key="k", measurements=(), samples="", command="")
    with pytest.raises(EvaluationError) as raised:
        kernels_ran.require_kernels(job, evaluation)
    assert raised.value.kind == "fallback"
    assert raised.value.message.count("does not say which kernels it launched") == 2
    kernels_ran.require_kernels(replace(job, kernels=()), evaluation)
    kernels_ran.require_kernels(job, replace(evaluation, kernels=Launches(launched=(entry(), triton()))))


def test_what_to_install_is_said_once_for_a_package() -> None:
    text = proof.describe_missing_kernels(
        proof.find_missing_kernels((SSD, "_chunk_state_fwd_kernel", "rotary_kernel"), Launches())
    )
    assert text.count("install mamba-ssm: pip install 'scanproof[gpu]' && MAMBA_FORCE_BUILD=TRUE ") == 1
    assert text.count("install flash-attn: ") == 1
    assert len(text.splitlines()) == 1 + 3 + 2


def test_launches_survive_the_store() -> None:
    launches = Launches(
        launched=(entry(), profiled("k")),
        choices=(
            AutotunerChoice(kernel=SSD, key=("64", "torch.float16"), config={"BLOCK_SIZE_M": 64, "maxnreg": None}),
        ),
        unavailable={"flash_attn_2_cuda": "No module named 'flash_attn_2_cuda'"},
    )
    assert from_json(Launches, to_json(launches)) == launches


class TestAutotuner:
    BEFORE = Launches(
        choices=(
            AutotunerChoice(
                kernel=SSD, key=("64", "fp16"), config={"num_warps": 4, "num_stages": 2, "BLOCK_SIZE_M": 64}
            ),
            AutotunerChoice(
                kernel=SSD, key=("128", "fp16"), config={"num_warps": 4, "num_stages": 2, "BLOCK_SIZE_M": 64}
            ),
        )
    )

    def test_names_the_settings_that_differ_for_the_same_kernel_and_sizes(self) -> None:
        chosen = AutotunerChoice(
            kernel=SSD, key=("128", "fp16"), config={"num_warps": 8, "num_stages": 2, "BLOCK_SIZE_M": 128}
        )
        now = Launches(choices=(self.BEFORE.choices[0], chosen))
        assert proof.compare_choices(self.BEFORE, now) == [
            f"autotuner: {SSD} chose BLOCK_SIZE_M 128 (64 before), num_warps 8 (4 before) for 128, fp16"
        ]

    @pytest.mark.parametrize("before", [None, BEFORE])
    def test_says_nothing_where_nothing_can_be_compared(self, before: Launches | None) -> None:
        other = Launches(choices=(AutotunerChoice(kernel=SSD, key=("7",), config={"num_warps": 1}),))
        assert proof.compare_choices(before, other) == []
        assert proof.compare_choices(before, None) == []

    @given(st.dictionaries(st.sampled_from(["num_warps", "num_stages", "BLOCK"]), st.integers(1, 4)))
    def test_every_difference_is_named_and_equal_choices_none(self, config: dict[str, int]) -> None:
        old = Launches(choices=(AutotunerChoice(kernel="k", key=(), config={"num_warps": 2, "BLOCK": 1}),))
        found = "".join(
            proof.compare_choices(old, Launches(choices=(AutotunerChoice(kernel="k", key=(), config={**config}),)))
        )
        names = {
            name
            for name in {"num_warps", "BLOCK", *config}
            if config.get(name) != {"num_warps": 2, "BLOCK": 1}.get(name)
        }
        assert {name for name in ("num_warps", "num_stages", "BLOCK") if f" {name} " in found} == names


HOWS: tuple[How, ...] = ("triton", "extension", "profiler")


@given(st.lists(st.tuples(st.sampled_from(HOWS), st.sampled_from([SCAN, SSD, "selective_scan_cuda.bwd"])), max_size=5))
def test_nothing_without_a_file_of_its_package_proves_a_kernel_of_the_table(seen: list[tuple[How, str]]) -> None:
    launched = tuple(Launch(name=name, how=how, count=1) for how, name in seen)
    assert len(proof.find_missing_kernels((SCAN, SSD), Launches(launched=launched))) == 2


def test_names_stand_for_rows_of_the_table() -> None:
    assert {row.entries for row in kernel_table.find_kernels("causal_conv1d")} == {
        ("causal_conv1d_fwd",), ("causal_conv1d_bwd",), ("causal_conv1d_update",)
    }  # fmt: skip
    assert kernel_table.find_kernels("nobody_knows") == ()
