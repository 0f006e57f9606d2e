"""Write `mamba-7b-tiny`, which is `mamba1-tiny` in transformers' layout: `python -m scanproof.embedded.convert`.

It stands in for Mamba-7B, which is published in this layout and evaluated with lm-eval's `hf`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from scanproof.embedded import CONVERTED, MIRROR
from scanproof.models.layout import StateSpacesConfig, read_config

SOURCE = "scanproof/mamba1-tiny"
SAFETENSORS = "model.safetensors"


def transformers_config(config: StateSpacesConfig) -> dict[str, Any]:
    """Fields of transformers' MambaConfig for a Mamba-1 checkpoint of the state-spaces layout."""
    return {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layer,
        "vocab_size": config.padded_vocab_size,
        "state_size": config.ssm_cfg["d_state"],
        "conv_kernel": 4,
        "expand": 2,
        "time_step_rank": -(-config.d_model // 16),
        "layer_norm_epsilon": 1e-5,
        "hidden_act": "silu",
        "use_bias": False,
        "use_conv_bias": True,
        "residual_in_fp32": config.residual_in_fp32,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "torch_dtype": "float16",
    }


def main(mirror: Path = MIRROR) -> None:
    """Rename the one tensor whose name differs, and write weights and config into `mirror`."""
    from safetensors.torch import load_file, save_file

    source, folder = MIRROR / SOURCE, mirror / CONVERTED
    config, weights = read_config(source / "config.json"), load_file(source / SAFETENSORS)
    renamed = {key.replace("backbone.embedding.", "backbone.embeddings."): value for key, value in weights.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(renamed, folder / SAFETENSORS, metadata={"format": "pt"})
    # safetensors makes the file readable by its owner only.
    (folder / SAFETENSORS).chmod(0o644)
    text = json.dumps(transformers_config(config), indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
