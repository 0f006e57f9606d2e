"""The table of kernels: which package contains a kernel, which entry point launches it, and how to install the package.

Each package, kernel and operation is one row.  The rows are used to prove that kernels ran, by the kernel suite and by
`scanproof doctor`.  The install commands are made here; a test compares those in README, docs and tox.ini with them
(tests/project/test_install_commands.py).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Package:
    """A distribution that contains kernels."""

    distribution: str
    oldest: str
    """The oldest release that is supported."""
    modules: tuple[str, ...]
    """Its top-level modules."""
    extension: str = ""
    """The compiled module that contains its CUDA kernels; empty: all its kernels are Triton's."""
    switches: tuple[str, ...] = ()
    """Environment variables, set to TRUE, that make its setup.py compile the kernels."""
    when: str
    """What the installation does without the switches, as a note beside the command."""
    refusals: tuple[str, ...] = ()
    """Words of the RuntimeErrors by which it says that it cannot compute on this machine, and what to install."""

    @property
    def requirement(self) -> str:
        """The requirement as pip reads it: `mamba-ssm>=2.2.2`."""
        return f"{self.distribution}>={self.oldest}"

    @property
    def install(self) -> str:
        """The command that installs it with its kernels; scanproof is all that has to be installed before."""
        return f"{INSTALL_EXTRA} && {install_command(self)}"

    @property
    def rebuild(self) -> str:
        """The command that replaces an installed package, which pip would otherwise leave unchanged."""
        return f"{self.install} --force-reinstall --no-deps"

    @property
    def advice(self) -> str:
        """What to do when its kernels are missing, whether the package is installed or not."""
        return f"{self.install} ({self.when}; where it is installed already, add --force-reinstall --no-deps)"


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """Kernels with a common launch: by Triton from Python, or by the same entry points of a package's extension."""

    names: tuple[str, ...]
    """Names of the kernels; which of them runs may depend on layouts and sizes."""
    distribution: str
    entries: tuple[str, ...] = ()
    """Functions of the extension that launch them; empty: they are Triton kernels."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What an operation of the kernel suite has to launch: Triton kernels, and entry points with their module."""

    name: str
    forward: tuple[str, ...]
    backward: tuple[str, ...] = ()
    without: str
    """What models do when the operation's kernels are missing."""

    @property
    def distribution(self) -> str:
        """The package that contains it: that of its last kernel, because it may call another package's first."""
        return find_kernels(self.forward[-1])[0].distribution


INSTALL_EXTRA = "pip install 'scanproof[gpu]'"
"""Installs torch and everything else that building a kernel package needs."""
BUILD_REQUIREMENTS = ("ninja", "packaging", "setuptools", "wheel")
"""Modules that the packages' setup.py files need.  With --no-build-isolation pip does not install them; the extra
`gpu` does."""

PACKAGES = (
    Package(
        distribution="mamba-ssm",
        oldest="2.2.2",
        modules=("mamba_ssm", "selective_scan_cuda"),
        extension="selective_scan_cuda",
        switches=("MAMBA_FORCE_BUILD", "MAMBA_KEEP_CUDA_BUILD"),
        when="since July 2026 its sources build no selective_scan_cuda without MAMBA_KEEP_CUDA_BUILD=TRUE",
    ),
    Package(
        distribution="causal-conv1d",
        oldest="1.4.0",
        modules=("causal_conv1d", "causal_conv1d_cuda"),
        extension="causal_conv1d_cuda",
        switches=("CAUSAL_CONV1D_FORCE_BUILD",),
        when="without CAUSAL_CONV1D_FORCE_BUILD=TRUE it looks for a wheel, which may be built for another torch",
    ),
    Package(
        distribution="flash-attn",
        oldest="2.6.3",
        modules=("flash_attn", "flash_attn_2_cuda"),
        extension="flash_attn_2_cuda",
        switches=("FLASH_ATTENTION_FORCE_BUILD",),
        when="without FLASH_ATTENTION_FORCE_BUILD=TRUE it looks for a wheel, which may be built for another torch",
    ),
    Package(
        distribution="fla-core",
        # The first whose operations take all that the cases pass: `state_v_first`, and a sigmoid inside.
        oldest="0.5.2",
        modules=("fla",),
        when="its kernels are Triton's: nothing is built",
        # In backward passes with a gate, on Hopper GPUs, for fear of Triton 3.4 to 3.7.0 (its issue 640).
        refusals=("on Hopper GPUs produces incorrect results",),
    ),
)


def install_command(*packages: Package) -> str:
    """The command that builds packages with their kernels and installs them; the extra `gpu` must be installed.

    --no-build-isolation: the setup.py files import torch, which pip would otherwise hide from them.
    --no-cache-dir: pip might otherwise reuse a wheel that it built before without the kernels.
    """
    switches = [f"{switch}=TRUE" for package in packages for switch in package.switches]
    requirements = [f"'{package.requirement}'" for package in packages]
    return " ".join([*switches, "pip install --no-build-isolation --no-cache-dir", *requirements])


# Kernel names are those in csrc/ and ops/triton/ of mamba-ssm 2.3.2, causal-conv1d 1.7 and flash-attn 2.8, and in
# fla/ops of fla-core 0.6.
_MAMBA_TRITON = (
    "_chunk_cumsum_fwd_kernel", "_chunk_state_fwd_kernel", "_chunk_state_varlen_kernel", "_state_passing_fwd_kernel",
    "_bmm_chunk_fwd_kernel", "_chunk_scan_fwd_kernel",
    "_chunk_cumsum_bwd_kernel", "_chunk_state_bwd_db_kernel", "_state_passing_bwd_kernel", "_bmm_chunk_bwd_kernel",
    "_chunk_scan_bwd_dstates_kernel", "_chunk_scan_bwd_dc_kernel", "_chunk_scan_bwd_dz_kernel",
    "_chunk_scan_bwd_dcb_kernel", "_chunk_scan_bwd_ddAcs_stable_kernel", "_chunk_scan_chunk_state_bwd_dx_kernel",
    "_selective_scan_update_kernel", "_layer_norm_fwd_1pass_kernel", "_layer_norm_bwd_kernel",
    "angle_dt_fwd_kernel", "angle_dt_bwd_kernel", "mamba3_siso_fwd_kernel", "mamba3_siso_step_kernel",
    "mamba3_siso_bwd_kernel_dzdo", "mamba3_siso_bwd_kernel_dqkv", "mamba3_siso_bwd_kernel_rotary_bias_angles",
    "mamba3_siso_bwd_kernel_dk_state_post", "mamba3_siso_bwd_kernel_ddt_dtrap_dinput_states",
)  # fmt: skip
# Those that run with every chunk size, and wherever the gate is made.
_DELTA = ("recompute_w_u_fwd_kernel", "chunk_gated_delta_rule_fwd_kernel_h_blockdim64", "chunk_fwd_kernel_o")
_DELTA_BACKWARD = (
    "chunk_bwd_kernel_dv_local", "chunk_gated_delta_rule_bwd_kernel_dhu_blockdim64", "chunk_bwd_kernel_dqkwg",
    "prepare_wy_repr_bwd_kernel",
)  # fmt: skip
KERNELS = (
    Kernel(names=("selective_scan_fwd_kernel",), distribution="mamba-ssm", entries=("fwd",)),
    Kernel(names=("selective_scan_bwd_kernel",), distribution="mamba-ssm", entries=("bwd",)),
    Kernel(names=_MAMBA_TRITON, distribution="mamba-ssm"),
    Kernel(
        names=("causal_conv1d_fwd_kernel", "causal_conv1d_channellast_fwd_kernel"),
        distribution="causal-conv1d",
        entries=("causal_conv1d_fwd",),
    ),
    Kernel(
        names=("causal_conv1d_bwd_kernel", "causal_conv1d_channellast_bwd_kernel"),
        distribution="causal-conv1d",
        entries=("causal_conv1d_bwd",),
    ),
    Kernel(
        names=("causal_conv1d_update_kernel",), distribution="causal-conv1d", entries=("causal_conv1d_update",)
    ),
    Kernel(names=("_causal_conv1d_varlen_states",), distribution="causal-conv1d"),
    Kernel(
        names=("flash_fwd_kernel", "flash_fwd_splitkv_kernel"),
        distribution="flash-attn",
        entries=("fwd", "varlen_fwd", "fwd_kvcache"),
    ),
    Kernel(
        names=("flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel",),
        distribution="flash-attn",
        entries=("bwd", "varlen_bwd"),
    ),
    Kernel(names=("rotary_kernel",), distribution="flash-attn"),
    Kernel(names=("fused_recurrent_gated_delta_rule_fwd_kernel", *_DELTA, *_DELTA_BACKWARD), distribution="fla-core"),
)  # fmt: skip

_SSD = (
    "_chunk_cumsum_fwd_kernel", "_chunk_state_fwd_kernel", "_state_passing_fwd_kernel", "_bmm_chunk_fwd_kernel",
    "_chunk_scan_fwd_kernel",
)  # fmt: skip
_SSD_BACKWARD = (
    "_chunk_scan_bwd_dstates_kernel", "_state_passing_bwd_kernel", "_chunk_scan_chunk_state_bwd_dx_kernel",
    "_chunk_state_bwd_db_kernel", "_chunk_scan_bwd_dc_kernel", "_chunk_cumsum_bwd_kernel",
)  # fmt: skip
_MAMBA3_BACKWARD = (
    "mamba3_siso_bwd_kernel_dqkv", "mamba3_siso_bwd_kernel_rotary_bias_angles",
    "mamba3_siso_bwd_kernel_ddt_dtrap_dinput_states", "angle_dt_bwd_kernel",
)  # fmt: skip
_SCAN, _SCAN_BACKWARD = "selective_scan_cuda.fwd", "selective_scan_cuda.bwd"
_CONVOLUTION, _CONVOLUTION_BACKWARD = "causal_conv1d_cuda.causal_conv1d_fwd", "causal_conv1d_cuda.causal_conv1d_bwd"
_SLOW_SCAN = "mamba_ssm raises; transformers warns once and loops over the sequence in Python"
_SLOW_CONVOLUTION = "mamba_ssm raises, or uses PyTorch's without a word; transformers warns once and uses PyTorch's"
_NO_ATTENTION = "transformers raises, or uses PyTorch's attention where a model does not insist"
_NO_MAMBA3 = "mamba_ssm's module Mamba3 cannot be imported"
_NO_TRITON = "mamba_ssm cannot be imported; transformers warns once and computes with plain PyTorch"
_NO_DELTA = "transformers computes with plain PyTorch"

OPERATIONS = (
    Operation(name="selective_scan_fn", forward=(_SCAN,), backward=(_SCAN_BACKWARD,), without=_SLOW_SCAN),
    Operation(
        name="mamba_inner_fn",
        forward=(_CONVOLUTION, _SCAN),
        backward=(_CONVOLUTION_BACKWARD, _SCAN_BACKWARD),
        without=_SLOW_SCAN,
    ),
    Operation(name="selective_state_update", forward=("_selective_scan_update_kernel",), without=_NO_TRITON),
    Operation(name="mamba_chunk_scan_combined", forward=_SSD, backward=_SSD_BACKWARD, without=_NO_TRITON),
    Operation(
        name="mamba_split_conv1d_scan_combined",
        forward=(_CONVOLUTION, *_SSD),
        backward=(_CONVOLUTION_BACKWARD, *_SSD_BACKWARD),
        without=_NO_TRITON,
    ),
    Operation(
        name="mamba3_siso_combined",
        forward=("angle_dt_fwd_kernel", "mamba3_siso_fwd_kernel"),
        backward=_MAMBA3_BACKWARD,
        without=_NO_MAMBA3,
    ),
    Operation(name="mamba3_siso_step", forward=("mamba3_siso_step_kernel",), without=_NO_MAMBA3),
    Operation(
        name="causal_conv1d_fn",
        forward=(_CONVOLUTION,),
        backward=(_CONVOLUTION_BACKWARD,),
        without=_SLOW_CONVOLUTION,
    ),
    Operation(
        name="causal_conv1d_update",
        forward=("causal_conv1d_cuda.causal_conv1d_update",),
        without=_SLOW_CONVOLUTION,
    ),
    Operation(
        name="causal_conv1d_varlen_states",
        forward=("_causal_conv1d_varlen_states",),
        without="mamba_ssm raises where packed sequences fill a cache",
    ),
    Operation(
        name="flash_attn_func",
        forward=("flash_attn_2_cuda.fwd",),
        backward=("flash_attn_2_cuda.bwd",),
        without=_NO_ATTENTION,
    ),
    Operation(
        name="flash_attn_varlen_func",
        forward=("flash_attn_2_cuda.varlen_fwd",),
        backward=("flash_attn_2_cuda.varlen_bwd",),
        without=_NO_ATTENTION,
    ),
    Operation(name="flash_attn_with_kvcache", forward=("flash_attn_2_cuda.fwd_kvcache",), without=_NO_ATTENTION),
    Operation(
        name="apply_rotary_emb",
        forward=("rotary_kernel",),
        backward=("rotary_kernel",),
        without="mamba_ssm refuses attention layers that rotate",
    ),
    Operation(
        name="layer_norm_fn",
        forward=("_layer_norm_fwd_1pass_kernel",),
        backward=("_layer_norm_bwd_kernel",),
        without=_NO_TRITON,
    ),
    Operation(
        name="rms_norm_fn",
        forward=("_layer_norm_fwd_1pass_kernel",),
        backward=("_layer_norm_bwd_kernel",),
        without=_NO_TRITON,
    ),
    Operation(
        name="rmsnorm_fn",
        forward=("_layer_norm_fwd_1pass_kernel",),
        backward=("_layer_norm_bwd_kernel",),
        without=_NO_TRITON,
    ),
    Operation(
        name="fused_recurrent_gated_delta_rule",
        forward=("fused_recurrent_gated_delta_rule_fwd_kernel",),
        without=_NO_DELTA,
    ),
    Operation(name="chunk_gated_delta_rule", forward=_DELTA, backward=_DELTA_BACKWARD, without=_NO_DELTA),
)  # fmt: skip


def find_package(distribution: str) -> Package:
    """The row of a distribution; KeyError if there is none."""
    return {package.distribution: package for package in PACKAGES}[distribution]


def find_operation(name: str) -> Operation:
    """The row of an operation; KeyError if there is none."""
    return {operation.name: operation for operation in OPERATIONS}[name]


def entry_points(kernel: Kernel) -> tuple[str, ...]:
    """The entry points of a kernel with their module, such as `selective_scan_cuda.fwd`."""
    return tuple(f"{find_package(kernel.distribution).extension}.{entry}" for entry in kernel.entries)


def find_kernels(needed: str) -> tuple[Kernel, ...]:
    """The rows that a name stands for.

    Args:
        needed: a kernel's name or its beginning, or an entry point with its module.  Only the beginning, because
            another kernel may have the name within its own: `_causal_conv1d_varlen_states` is no convolution.
    """
    return tuple(
        kernel
        for kernel in KERNELS
        if needed in entry_points(kernel) or any(name.startswith(needed) for name in kernel.names)
    )
