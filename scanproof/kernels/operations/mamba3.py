"""Mamba-3's scan and its decode step, with one input per state."""

from __future__ import annotations

import torch

from scanproof.kernels import costs
from scanproof.kernels.criterion import ATOL
from scanproof.kernels.inputs import ArgumentSpec, OutputSpec
from scanproof.kernels.operation import FLOAT32, Op, integer_argument, optional_argument, take_together
from scanproof.kernels.references import mamba3

_MAMBA3_STATES = ("Input_Angle_State", "Input_SSM_State", "Input_K_State", "Input_V_State")

MAMBA3 = Op(
    name="mamba3_siso_combined",
    package="mamba-ssm",
    module="mamba_ssm.ops.triton.mamba3.mamba3_siso_combined",
    reference=mamba3.mamba3_siso_combined,
    arguments=(
        ArgumentSpec("Q", "b l g n"),
        ArgumentSpec("K", "b l g n"),
        ArgumentSpec("V", "b l h p"),
        ArgumentSpec("ADT", "b h l", "log_decay", FLOAT32),
        ArgumentSpec("DT", "b h l", "steps", FLOAT32),
        ArgumentSpec("Trap", "b h l"),
        ArgumentSpec("Q_bias", "h n", "near_one", FLOAT32),
        ArgumentSpec("K_bias", "h n", "near_one", FLOAT32),
        ArgumentSpec("Angles", "b l h a"),
        optional_argument("D", "h", "normal", FLOAT32),
        optional_argument("Z", "b l h p"),
        optional_argument("Input_Angle_State", "b h a", "turns", FLOAT32),
        optional_argument("Input_SSM_State", "b h p n", "normal", FLOAT32),
        optional_argument("Input_K_State", "b h n", "normal", FLOAT32),
        optional_argument("Input_V_State", "b h p"),
        integer_argument("cu_seqlens", "S+1", "cu_seqlens"),
    ),
    outputs=(
        OutputSpec("out", "b l h p"),
        OutputSpec("final_angle_state", "b h a", "input", "return_final_states", angle=True),
        OutputSpec("final_ssm_state", "b h p n", FLOAT32, "return_final_states"),
        OutputSpec("final_k_state", "b h n", FLOAT32, "return_final_states"),
        OutputSpec("final_v_state", "b h p", "input", "return_final_states"),
    ),
    flop=costs.mamba3,
    backward_flop=costs.mamba3_backward,
    adapt=take_together("Input_States", _MAMBA3_STATES),
    derived=lambda s: {"S+1": s["S"] + 1},
    # To bfloat16, whatever they are, which is also what it returns.
    casts=("Q", "K", "V", "Trap", "Angles", "Z"),
    dtypes=("bfloat16",),
    matmul=True,
    approximate=True,
    # Its backward pass rounds the products that the gradient of D sums, which the form does not.
    atol={"bfloat16": ATOL[torch.bfloat16]},
    atomic=("grad of K", "grad of K_bias"),
    # The last value as it was given.
    aliases=("final_v_state",),
)

MAMBA3_STEP = Op(
    name="mamba3_siso_step",
    package="mamba-ssm",
    module="mamba_ssm.ops.triton.mamba3.mamba3_siso_step",
    reference=mamba3.mamba3_siso_step,
    arguments=(
        ArgumentSpec("Q", "b g n"),
        ArgumentSpec("K", "b g n"),
        ArgumentSpec("V", "b h p"),
        ArgumentSpec("ADT", "b h", "log_decay", FLOAT32),
        ArgumentSpec("DT", "b h", "steps", FLOAT32),
        ArgumentSpec("Trap", "b h"),
        ArgumentSpec("Q_bias", "h n", "near_one", FLOAT32),
        ArgumentSpec("K_bias", "h n", "near_one", FLOAT32),
        ArgumentSpec("Angles", "b h a"),
        ArgumentSpec("Input_Angle_State", "b h a", "turns", FLOAT32),
        ArgumentSpec("Input_SSM_State", "b h p n", "normal", FLOAT32),
        ArgumentSpec("Input_K_State", "b h n", "normal", FLOAT32),
        ArgumentSpec("Input_V_State", "b h p"),
        optional_argument("D", "h", "normal", FLOAT32),
        optional_argument("Z", "b h p"),
    ),
    outputs=(
        OutputSpec("out", "b h p"),
        OutputSpec("angle_state", "b h a", FLOAT32, angle=True, unrounded=True),
        OutputSpec("ssm_state", "b h p n", FLOAT32, unrounded=True),
        OutputSpec("k_state", "b h n", FLOAT32, unrounded=True),
        OutputSpec("v_state", "b h p"),
    ),
    flop=costs.mamba3_step,
    adapt=take_together("Input_States", _MAMBA3_STATES),
    # In the product with q it rounds the state to bfloat16, whatever dtype its arguments have.
    dtypes=("bfloat16",),
    matmul=True,
    approximate=True,
    # The value as it was given.
    aliases=("v_state",),
)

MAMBA3_SCANS = (MAMBA3, MAMBA3_STEP)
