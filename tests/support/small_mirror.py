"""A mirror that takes a second to build: a random GPT-NeoX of two layers and a dozen made-up questions."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from scanproof.evaluation.evaluate_job import evaluate
from scanproof.evaluation.process import Progress
from scanproof.evaluation.request import Settings
from scanproof.numbers.values import EvalJob

__all__ = ["JOB", "Settings", "build", "copy_of", "evaluate", "ignore", "rows", "settings", "write_rows"]

MODEL = "tests/neox-tiny"
DATASET = "allenai/ai2_arc"
QUESTIONS = 12
SIZE, LAYERS, VOCABULARY = 16, 2, 64
HANGS = 600.0
"""Seconds after which something is stuck: what waits for it ends, and no verdict lies in how long it took."""

JOB = EvalJob(
    name="test-neox-0shot",
    model="hf",
    pretrained=MODEL,
    revision="main",
    dtype="float32",
    device="cpu",
    tasks=("arc_easy",),
    num_fewshot=0,
    batch_size=4,
    max_length=128,
)


def build(mirror: Path) -> Path:
    """Write the model and the dataset; returns the mirror."""
    write_model(mirror / MODEL)
    write_dataset(mirror / DATASET)
    return mirror


def copy_of(mirror: Path, target: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(mirror, target))


def settings(folder: Path, mirror: Path, **changes: Any) -> Settings:
    """Settings with a store below `folder`."""
    plain = Settings(store=folder / "store", mirror=mirror, fresh=False, timeout=HANGS, session="first")
    return replace(plain, **changes)


def ignore(_: Progress) -> None:
    """A progress callback for tests that do not look at it."""


def write_model(folder: Path) -> None:
    """Random weights from a seed in GPT-NeoX's published layout, and a tokenizer of letters."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(7)
    shapes = {
        "gpt_neox.embed_in.weight": (VOCABULARY, SIZE),
        "gpt_neox.final_layer_norm.weight": (SIZE,),
        "gpt_neox.final_layer_norm.bias": (SIZE,),
        "embed_out.weight": (VOCABULARY, SIZE),
    }
    for layer in range(LAYERS):
        shapes |= {f"gpt_neox.layers.{layer}.{name}": shape for name, shape in _layer_shapes().items()}
    weights = {name: draw.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "hidden_size": SIZE,
        "intermediate_size": 4 * SIZE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
        "rotary_pct": 0.5,
        "vocab_size": VOCABULARY,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    _write_tokenizer(folder)


def _layer_shapes() -> dict[str, tuple[int, ...]]:
    norms = {f"{name}.{part}": (SIZE,) for name in _NORMS for part in ("weight", "bias")}
    sizes = {
        "attention.query_key_value": (3 * SIZE, SIZE),
        "attention.dense": (SIZE, SIZE),
        "mlp.dense_h_to_4h": (4 * SIZE, SIZE),
        "mlp.dense_4h_to_h": (SIZE, 4 * SIZE),
    }
    linear: dict[str, tuple[int, ...]] = {}
    for name, shape in sizes.items():
        linear |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {**norms, **linear}


_NORMS = ("input_layernorm", "post_attention_layernorm")


def _write_tokenizer(folder: Path) -> None:
    # Where kernels are interpreted this module is loaded, and tokenizers is not installed.
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,:?"
    vocabulary = {"<|endoftext|>": 0, "<unk>": 1, **{letter: i for i, letter in enumerate(letters, start=2)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "bos_token": "<|endoftext|>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(special))


def rows() -> list[dict[str, Any]]:
    """Questions in the schema of the dataset."""
    nouns = ("salt", "granite", "a river", "the moon", "copper", "an oak", "rain", "glass", "wool", "sand")
    return [
        {
            "id": f"q{number}",
            "question": f"Which of these is number {'abcdefghijkl'[number]} of the list?",
            "choices": {"text": [nouns[(number + k) % 10] for k in range(4)], "label": list("ABCD")},
            "answerKey": "ABCD"[number % 4],
        }
        for number in range(QUESTIONS)
    ]


def write_dataset(folder: Path) -> None:
    """The three splits of ARC-Easy."""
    (folder / "ARC-Easy").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        write_rows(folder / "ARC-Easy" / f"{split}.jsonl", rows())
    splits = "".join(
        f"  - split: {split}\n    path: ARC-Easy/{split}.jsonl\n" for split in ("train", "validation", "test")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: ARC-Easy\n  data_files:\n{splits}---\n")


def write_rows(path: Path, content: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
