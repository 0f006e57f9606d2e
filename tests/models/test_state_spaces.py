"""The state-spaces layout: keys, loading, precision, and agreement with an independent implementation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.models.layout import CheckpointError, read_config
from tests.support.late import Late
from tests.support.tiny_models import CONFIGS, ids, tiny

if TYPE_CHECKING:
    import safetensors.torch as safetensors
    import torch

    from scanproof.models import language_model, loading
else:
    torch, safetensors = Late("torch"), Late("safetensors.torch")
    language_model, loading = Late("scanproof.models.language_model"), Late("scanproof.models.loading")

ENDS = {"backbone.embedding.weight": (104, 32), "backbone.norm_f.weight": (32,), "lm_head.weight": (104, 32)}
MIXER1 = {
    "A_log": (64, 8),
    "D": (64,),
    "in_proj.weight": (128, 32),
    "conv1d.weight": (64, 1, 4),
    "conv1d.bias": (64,),
    "x_proj.weight": (18, 64),
    "dt_proj.weight": (64, 2),
    "dt_proj.bias": (64,),
    "out_proj.weight": (32, 64),
}
MIXER2 = {
    "A_log": (4,),
    "D": (4,),
    "dt_bias": (4,),
    "in_proj.weight": (164, 32),
    "conv1d.weight": (96, 1, 4),
    "conv1d.bias": (96,),
    "norm.weight": (64,),
    "out_proj.weight": (32, 64),
}
MHA = {
    "in_proj.weight": (96, 32),
    "conv1d.weight": (96, 1, 4),
    "conv1d.bias": (96,),
    "out_proj.weight": (32, 32),
}
# Names and shapes of mamba_ssm's MambaLMHeadModel (mixer_seq_simple, mamba_simple, mamba2, mha, mlp).
MIXERS = {
    "mamba1": (MIXER1, MIXER1),
    "mamba2": (MIXER2, MIXER2),
    "mamba2attn": (MIXER2, MHA),
    "transformer": (MHA, MHA),
}
MLP = {"norm2.weight": (32,), "mlp.fc1.weight": (256, 32), "mlp.fc2.weight": (32, 128)}


def saved(folder: Path, name: str = "mamba1") -> Path:
    loading.save(tiny(name), folder, torch.float32)
    return folder


def rewrite(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = safetensors.load_file(folder / "model.safetensors")
    for key, value in changes.items():
        tensors.pop(key, None)
        if value is not None:
            tensors[key] = value
    safetensors.save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("name", CONFIGS)
def test_state_dict_is_that_of_mamba_ssm(name: str) -> None:
    expected = dict(ENDS)
    for index, parts in enumerate(MIXERS[name]):
        prefix = f"backbone.layers.{index}"
        expected[f"{prefix}.norm.weight"] = (32,)
        expected |= {f"{prefix}.mixer.{key}": shape for key, shape in parts.items()}
        expected |= {f"{prefix}.{key}": shape for key, shape in MLP.items()} if name == "transformer" else {}
    assert {key: tuple(value.shape) for key, value in tiny(name).state_dict().items()} == expected


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_a_saved_checkpoint_loads_to_the_same_model(tmp_path: Path, name: str, kind: str) -> None:
    folder = saved(tmp_path / name, name)
    if kind == "pytorch_model.bin":
        torch.save(safetensors.load_file(folder / "model.safetensors"), folder / kind)
        (folder / "model.safetensors").unlink()
    assert_same_model(loading.load(folder), tiny(name))


def test_a_checkpoint_is_read_without_values_and_without_torchs_compiler(tmp_path: Path) -> None:
    """In a process of its own: others may have imported the compiler, which takes a second."""
    for name in CONFIGS:
        saved(tmp_path / name, name)
    program = (
        "import sys; from pathlib import Path; from scanproof.models import loading\n"
        "for folder in Path(sys.argv[1]).iterdir():\n"
        "    _, _, model = loading.read_checkpoint(folder)\n"
        "    assert all(value.is_meta for value in model.state_dict().values()), folder\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


def assert_same_model(one: language_model.StateSpacesLM, other: language_model.StateSpacesLM) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    # The alignment of a tensor in a mapped file changes the order of summation.
    torch.testing.assert_close(one(ids()).logits, other(ids()).logits, rtol=1e-4, atol=1e-5)


def test_transformers_mamba_gives_the_same_logits() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    ours = tiny("mamba1")
    theirs = MambaForCausalLM(
        MambaConfig(
            vocab_size=104,
            hidden_size=32,
            state_size=8,
            num_hidden_layers=2,
            expand=2,
            conv_kernel=4,
            time_step_rank=2,
            residual_in_fp32=True,
            use_bias=False,
            use_conv_bias=True,
            tie_word_embeddings=True,
        )
    )
    assert_same_logits(ours, theirs)


def test_transformers_mamba2_gives_the_same_logits() -> None:
    from transformers import Mamba2Config, Mamba2ForCausalLM

    ours = tiny("mamba2")
    theirs = Mamba2ForCausalLM(
        Mamba2Config(
            vocab_size=104,
            hidden_size=32,
            state_size=16,
            num_hidden_layers=2,
            expand=2,
            conv_kernel=4,
            num_heads=4,
            head_dim=16,
            n_groups=1,
            chunk_size=8,
            residual_in_fp32=True,
            use_bias=False,
            use_conv_bias=True,
            tie_word_embeddings=True,
            layer_norm_epsilon=1e-5,
        )
    )
    assert_same_logits(ours, theirs)


def assert_same_logits(ours: language_model.StateSpacesLM, theirs: Any) -> None:
    renamed = {
        key.replace("backbone.embedding.", "backbone.embeddings."): value for key, value in ours.state_dict().items()
    }
    theirs.load_state_dict(renamed)
    theirs.eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(ids()).logits, theirs(ids()).logits, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_padding_on_the_right_changes_nothing(name: str) -> None:
    model = tiny(name, "float64")
    padded = torch.cat([ids(), torch.zeros(3, 14, dtype=torch.long)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(model(padded).logits[:, :21], model(ids()).logits, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("dtype", "distance"), [("float32", 1e-4), ("float16", 3e-2), ("bfloat16", 2e-1)])
def test_lower_precision_is_close_to_float64(tmp_path: Path, name: str, dtype: str, distance: float) -> None:
    folder = saved(tmp_path, name)
    with torch.no_grad():
        exact = loading.load(folder, torch.float64)(ids()).logits
        rough = loading.load(folder, getattr(torch, dtype))(ids()).logits
    assert exact.dtype == torch.float64
    assert rough.dtype == getattr(torch, dtype)
    assert (rough.double() - exact).abs().max() < distance


def test_a_log_and_d_stay_wide(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    half = loading.load(folder, torch.bfloat16).state_dict()
    assert half["backbone.layers.0.mixer.A_log"].dtype == torch.float32
    assert half["backbone.layers.0.mixer.D"].dtype == torch.float32
    assert half["backbone.layers.0.mixer.in_proj.weight"].dtype == torch.bfloat16
    double = loading.load(folder, torch.float64).state_dict()
    assert {value.dtype for value in double.values()} == {torch.float64}


def test_rotary_attention_sees_distances_only() -> None:
    from scanproof.models.layers import rotate

    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64).unbind()
    for interleaved in (False, True):
        scores = [
            (
                rotate(q.expand(1, 1, 9, 8), 8, 1e4, interleaved)[0, 0, i]
                @ rotate(k.expand(1, 1, 9, 8), 8, 1e4, interleaved)[0, 0, j]
            ).item()
            for i, j in ((2, 0), (5, 3), (8, 6))
        ]
        assert scores == pytest.approx([scores[0]] * 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": None}, "config.json: d_model: missing"),
        ({"n_layer": "4"}, "config.json: n_layer: expected int, found '4'"),
        ({"architectures": ["X"]}, "config.json: architectures: mamba_ssm knows no such field"),
        ({"ssm_cfg": {"layer": "Mamba3"}}, "config.json: ssm_cfg.layer: 'Mamba3' is not supported"),
        ({"ssm_cfg": {"width": 3}}, "config.json: ssm_cfg or attn_cfg: .*width"),
    ],
)
def test_a_wrong_config_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = saved(tmp_path) / "config.json"
    data = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    with pytest.raises(CheckpointError, match=message):
        loading.load(tmp_path)


def test_a_config_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path) / "config.json"
    path.write_text('{"d_model": 32,\n oops')
    with pytest.raises(CheckpointError, match=r"config\.json:2: no JSON"):
        loading.load(tmp_path)


def test_an_old_config_takes_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {}}))
    config = read_config(path)
    assert config.padded_vocab_size == 50280
    assert config.tie_embeddings
    assert config.layer == "Mamba1"


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("backbone.norm_f.weight", None, "backbone.norm_f.weight: missing"),
        ("backbone.extra", (2,), "backbone.extra: the config has no place for it"),
        (
            "backbone.norm_f.weight",
            (5,),
            r"backbone.norm_f.weight: shape \(5,\), .* asks for \(32,\)",
        ),
        ("lm_head.weight", (104, 32), "lm_head.weight: differs from backbone.embedding.weight"),
    ],
)
def test_a_wrong_state_dict_is_named(tmp_path: Path, key: str, shape: tuple[int, ...] | None, message: str) -> None:
    rewrite(saved(tmp_path), **{key: None if shape is None else torch.zeros(shape)})
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: {message}"):
        loading.load(tmp_path)


def test_a_tied_head_may_be_left_out(tmp_path: Path) -> None:
    rewrite(saved(tmp_path), **{"lm_head.weight": None})
    assert_same_model(loading.load(tmp_path), tiny("mamba1"))


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_a_broken_file_is_named(tmp_path: Path, kind: str) -> None:
    folder = saved(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / kind).write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=f"{kind}: not a readable"):
        loading.load(folder)


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"model": Path("anything")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: .*nothing of it was run: .*pathlib"):
        loading.load(folder)


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    (saved(tmp_path) / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        loading.load(tmp_path)
