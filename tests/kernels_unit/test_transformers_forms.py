"""The references are what transformers computes in PyTorch: its forms of the operations, and its mixers."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from scanproof.kernels.references import convolution, gated_delta, mamba1, mamba2, norms
    from tests.support import oracles
    from tests.support.oracles import Pair
else:
    torch, F, oracles = Late("torch"), Late("torch.nn.functional"), Late("tests.support.oracles")
    convolution, norms = Late("scanproof.kernels.references.convolution"), Late("scanproof.kernels.references.norms")
    mamba1, mamba2 = Late("scanproof.kernels.references.mamba1"), Late("scanproof.kernels.references.mamba2")
    gated_delta = Late("scanproof.kernels.references.gated_delta")

MAMBA1 = "transformers.models.mamba.modeling_mamba"
FALCON = "transformers.models.falcon_mamba.modeling_falcon_mamba"
MAMBA2 = "transformers.models.mamba2.modeling_mamba2"
QWEN = "transformers.models.qwen3_next.modeling_qwen3_next"


def form(module: str, name: str) -> Any:
    """A form of transformers; skips the test where the installed version has none."""
    try:
        return oracles.find_form("transformers", module, name)
    except oracles.NoForm as error:
        pytest.skip(str(error))


def make_mixer(module: str, name: str, config: Any, **more: Any) -> Any:
    """A mixer in float64; its weights are drawn anew: as they are made, biases are 0 and skips are 1."""
    if kernels := [package for package in ("mamba_ssm", "causal_conv1d") if find_spec(package)]:
        pytest.skip(f"transformers' mixers take the kernels of {' and '.join(kernels)}, which are installed here")
    mixer = form(module, name)(config, layer_idx=0, **more).double().eval()
    with torch.no_grad():
        for number, (weight_name, weight) in enumerate(mixer.named_parameters()):
            fresh = oracles.draw(*weight.shape, seed=number)
            is_matrix = weight.dim() > 1 and weight_name != "A_log"
            weight.copy_(fresh / weight[0].numel() ** 0.5 if is_matrix else fresh)
    return mixer


def renamed(call: Callable[..., Any], **names: str) -> Callable[..., Any]:
    """The form under the reference's names of arguments: `x="hidden_states"`."""
    return lambda **arguments: call(**{names.get(name, name): value for name, value in arguments.items()})


def updating(call: Callable[..., Any], state: str) -> Callable[..., Any]:
    """A form that changes a state in place, made to return it as well."""
    return lambda **arguments: (call(**arguments), arguments[state])


def scan() -> Pair:
    """b 2, d 6, l 9, n 4."""
    draw = oracles.draw
    arguments = {
        "u": draw(2, 6, 9), "delta": draw(2, 6, 9, seed=1), "A": oracles.draw_decay(6, 4), "B": draw(2, 4, 9),
        "C": draw(2, 4, 9, seed=1), "D": draw(6), "z": draw(2, 6, 9, seed=2), "delta_bias": draw(6, seed=1),
        "delta_softplus": True, "return_last_state": True,
    }  # fmt: skip
    call = renamed(form(MAMBA1, "mamba_selective_scan"), u="hidden_states", delta="dt")
    return oracles.Pair(mamba1.selective_scan_fn, call, arguments)


def duality(**more: Any) -> Pair:
    """b 2, l 21 in chunks of 8, h 4, p 3, g 2, n 5."""
    draw = oracles.draw
    arguments = {
        "x": draw(2, 21, 4, 3), "dt": draw(2, 21, 4), "A": oracles.draw_decay(4), "B": draw(2, 21, 2, 5),
        "C": draw(2, 21, 2, 5, seed=1), "chunk_size": 8, "D": draw(4), "dt_bias": draw(4, seed=1),
        "initial_states": draw(2, 4, 3, 5), "dt_softplus": True, "return_final_states": True, **more,
    }  # fmt: skip
    call = renamed(form(MAMBA2, "mamba2_chunk_scan"), x="hidden_states")
    return oracles.Pair(mamba2.mamba_chunk_scan_combined, call, arguments)


def mamba1_step() -> Pair:
    draw = oracles.draw
    arguments = {
        "state": draw(2, 6, 4), "x": draw(2, 6), "dt": draw(2, 6, seed=1), "A": oracles.draw_decay(6, 4),
        "B": draw(2, 4), "C": draw(2, 4, seed=1), "D": draw(6), "z": draw(2, 6, seed=2), "dt_bias": draw(6, seed=1),
        "dt_softplus": True,
    }  # fmt: skip
    call = renamed(form(MAMBA1, "mamba_selective_state_update"), x="hidden_states")
    return oracles.Pair(mamba1.selective_state_update, updating(call, "state"), arguments, differentiable=False)


def mamba2_step() -> Pair:
    draw = oracles.draw
    arguments = {
        "state": draw(2, 4, 3, 5), "x": draw(2, 4, 3), "dt": draw(2, 4, 3, seed=1), "A": oracles.draw_decay(4, 3, 5),
        "B": draw(2, 2, 5), "C": draw(2, 2, 5, seed=1), "D": draw(4, 3), "z": draw(2, 4, 3, seed=2),
        "dt_bias": draw(4, 3, seed=1), "dt_softplus": True,
    }  # fmt: skip
    call = renamed(form(MAMBA2, "mamba2_selective_state_update"), x="hidden_states")
    return oracles.Pair(mamba1.selective_state_update, updating(call, "state"), arguments, differentiable=False)


def delta(reference: str, name: str, **options: Any) -> Pair:
    """b 2, l 21, g 2 heads of q and k, h 4 of v, n 5, p 3; the norms of q and k inside."""
    draw = oracles.draw
    arguments = {
        "q": draw(2, 21, 2, 5), "k": draw(2, 21, 2, 5, seed=1), "v": draw(2, 21, 4, 3),
        "g": oracles.draw_decay(2, 21, 4), "beta": torch.sigmoid(draw(2, 21, 4)), "initial_state": draw(2, 4, 5, 3),
        "output_final_state": True, "use_qk_l2norm_in_kernel": True, **options,
    }  # fmt: skip
    call = renamed(form(QWEN, name), q="query", k="key", v="value")
    return oracles.Pair(getattr(gated_delta, reference), call, arguments)


def convolved(module: str) -> Pair:
    draw = oracles.draw
    arguments = {"x": draw(2, 6, 9), "weight": draw(6, 4), "bias": draw(6), "activation": "silu"}
    return oracles.Pair(
        convolution.causal_conv1d_fn, renamed(form(module, "causal_conv1d_fn"), x="hidden_states"), arguments
    )


def convolved_on(module: str, new: int) -> Pair:
    """`new` inputs after a state of four."""
    draw = oracles.draw
    arguments = {
        "x": draw(2, 6, new), "conv_state": draw(2, 6, 4), "weight": draw(6, 4), "bias": draw(6), "activation": "silu",
    }  # fmt: skip
    call = renamed(form(module, "causal_conv1d_update"), x="hidden_states")
    return oracles.Pair(convolution.causal_conv1d_update, updating(call, "conv_state"), arguments, differentiable=False)


def weights_of(module: Any, **names: str) -> dict[str, Tensor]:
    return {ours: module.get_parameter(theirs).detach() for ours, theirs in names.items()}


def run_mixer(mixer: Any, names: dict[str, str], arguments: dict[str, Any]) -> Any:
    """The mixer's output, with the weights that are given in place of its own, which have these names there."""
    weights = {names[name]: value for name, value in arguments.items() if name in names}
    return torch.func.functional_call(mixer, weights, (arguments["hidden"],))


def mixer1(norms_of_falcon: bool = False) -> Pair:
    """The whole of a Mamba block: d_model 4, d 8, n 4, rank 2; with FalconMamba's norms of B and C, or without them."""
    config = form("transformers", "FalconMambaConfig" if norms_of_falcon else "MambaConfig")(
        hidden_size=4, expand=2, state_size=4, num_hidden_layers=1, time_step_rank=2, use_bias=True
    )
    ones: dict[str, Any] = {}
    if norms_of_falcon:
        # Its own initialization asks for norms that it has not made yet.
        mixer = make_mixer(FALCON, "FalconMambaMixer", config, initialize_mixer_weights=False)
        # The operation has its norm of dt elsewhere, after the projection.
        mixer.dt_layernorm = torch.nn.Identity()
        ones = {name: torch.ones(4, dtype=torch.float64) for name in ("b_rms_weight", "c_rms_weight")}
    else:
        mixer = make_mixer(MAMBA1, "MambaMixer", config)
    names = {
        "in_weight": "in_proj.weight", "in_bias": "in_proj.bias", "conv_weight": "conv1d.weight",
        "conv_bias": "conv1d.bias", "x_weight": "x_proj.weight", "dt_weight": "dt_proj.weight",
        "dt_bias": "dt_proj.bias", "A_log": "A_log", "D": "D", "out_weight": "out_proj.weight",
        "out_bias": "out_proj.bias",
    }  # fmt: skip

    def reference(**a: Tensor) -> Any:
        xz = F.linear(a["hidden"], a["in_weight"], a["in_bias"]).transpose(1, 2)
        return mamba1.mamba_inner_fn(
            xz, a["conv_weight"], a["conv_bias"], a["x_weight"], a["dt_weight"], a["out_weight"], a["out_bias"],
            -torch.exp(a["A_log"]), D=a["D"], delta_bias=a["dt_bias"], **ones,
        )  # fmt: skip

    arguments = {"hidden": oracles.draw(2, 9, 4), **weights_of(mixer, **names)}
    return oracles.Pair(reference, lambda **a: run_mixer(mixer, names, a), arguments)


def mixer2() -> Pair:
    """The whole of a Mamba-2 block: d_model 6, h 4, p 3, g 2, n 5, chunks of 8."""
    config = form("transformers", "Mamba2Config")(
        hidden_size=6, expand=2, num_heads=4, head_dim=3, n_groups=2, state_size=5, chunk_size=8, num_hidden_layers=1,
        use_bias=True, time_step_limit=(0.3, 1.5),
    )  # fmt: skip
    mixer = make_mixer(MAMBA2, "Mamba2Mixer", config)
    names = {
        "in_weight": "in_proj.weight", "in_bias": "in_proj.bias", "conv_weight": "conv1d.weight",
        "conv_bias": "conv1d.bias", "dt_bias": "dt_bias", "A_log": "A_log", "D": "D", "norm": "norm.weight",
        "out_weight": "out_proj.weight", "out_bias": "out_proj.bias",
    }  # fmt: skip

    def reference(**a: Tensor) -> Any:
        return mamba2.mamba_split_conv1d_scan_combined(
            F.linear(a["hidden"], a["in_weight"], a["in_bias"]), a["conv_weight"][:, 0], a["conv_bias"], a["dt_bias"],
            -torch.exp(a["A_log"]), a["D"], 8, dt_limit=(0.3, 1.5), rmsnorm_weight=a["norm"], rmsnorm_eps=1e-5,
            outproj_weight=a["out_weight"], outproj_bias=a["out_bias"], headdim=3, ngroups=2, norm_before_gate=False,
        )  # fmt: skip

    arguments = {"hidden": oracles.draw(2, 21, 6), **weights_of(mixer, **names)}
    return oracles.Pair(reference, lambda **a: run_mixer(mixer, names, a), arguments)


def gated_norm() -> Pair:
    module = form(MAMBA2, "MambaRMSNormGated")(12, group_size=4, eps=1e-5).double()

    def call(x: Tensor, weight: Tensor, z: Tensor, **same: Any) -> Any:
        return torch.func.functional_call(module, {"weight": weight}, (x, z))

    arguments = {
        "x": oracles.draw(2, 3, 12), "weight": oracles.draw(12), "bias": None, "z": oracles.draw(2, 3, 12, seed=1),
        "eps": 1e-5, "group_size": 4, "norm_before_gate": False,
    }  # fmt: skip
    return oracles.Pair(norms.rmsnorm_fn, call, arguments)


def plain_norm(module: str, name: str) -> Pair:
    norm = form(module, name)(12, eps=1e-5).double()

    def call(x: Tensor, weight: Tensor, **same: Any) -> Any:
        return torch.func.functional_call(norm, {"weight": weight}, (x,))

    arguments = {"x": oracles.draw(2, 3, 12), "weight": oracles.draw(12), "bias": None, "eps": 1e-5}
    return oracles.Pair(norms.rms_norm_fn, call, arguments)


PAIRS: dict[str, Callable[[], Pair]] = {
    "selective_scan_fn": scan,
    "mamba_inner_fn, by MambaMixer": mixer1,
    "mamba_inner_fn, by FalconMambaMixer": lambda: mixer1(norms_of_falcon=True),
    "selective_state_update, Mamba-1": mamba1_step,
    "selective_state_update, Mamba-2": mamba2_step,
    "mamba_chunk_scan_combined": duality,
    "mamba_chunk_scan_combined, limited steps": lambda: duality(dt_limit=(0.3, 1.5)),
    "mamba_chunk_scan_combined, steps as they are": lambda: duality(dt_softplus=False, dt_limit=(0.0, 1.0)),
    "mamba_split_conv1d_scan_combined, by Mamba2Mixer": mixer2,
    "chunk_gated_delta_rule": lambda: delta("chunk_gated_delta_rule", "torch_chunk_gated_delta_rule", chunk_size=8),
    "fused_recurrent_gated_delta_rule": lambda: delta(
        "fused_recurrent_gated_delta_rule", "torch_recurrent_gated_delta_rule"
    ),
    "causal_conv1d_fn, of Mamba-1": lambda: convolved(MAMBA1),
    "causal_conv1d_fn, of Mamba-2": lambda: convolved(MAMBA2),
    "causal_conv1d_update, one position": lambda: convolved_on(MAMBA1, 1),
    "causal_conv1d_update, six positions": lambda: convolved_on(MAMBA2, 6),
    "rmsnorm_fn, by MambaRMSNormGated": gated_norm,
    "rms_norm_fn, by MambaRMSNorm": lambda: plain_norm(MAMBA1, "MambaRMSNorm"),
    "rms_norm_fn, by Mamba2RMSNorm": lambda: plain_norm(MAMBA2, "Mamba2RMSNorm"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_reference_is_what_transformers_computes(name: str, record_property: Callable[[str, object], None]) -> None:
    pair = PAIRS[name]()
    differences = oracles.find_differences(pair)
    record_property("largest difference", max(differences.values()))
    assert {what: size for what, size in differences.items() if size > oracles.EQUAL} == {}
    assert oracles.find_unseen(pair) == []


@pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="transformers' torch form of mamba_chunk_scan_combined ignores z"
)
def test_the_form_of_the_duality_multiplies_by_its_gate() -> None:
    """A known defect (docs/defects.md): z is among the arguments of the operation, and this form swallows it."""
    pair = duality(z=oracles.draw(2, 21, 4, 3, seed=2))
    gate = F.silu(pair.arguments["z"])
    with oracles.Widened():
        got, expected = pair.form(**pair.arguments)[0], pair.reference(**pair.arguments)[0]
    if (got * gate - expected).abs().max() > oracles.EQUAL * expected.abs().max():
        pytest.fail("more than the gate is missing")
    assert (got - expected).abs().max() <= oracles.EQUAL * expected.abs().max()
