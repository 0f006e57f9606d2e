"""Faults of the model that is read: its checkpoint, tokenizer, configuration, and the job that evaluates it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scanproof.faults.gates import file_changes as change
from scanproof.faults.gates.endings import (
    CHANGED,
    OTHER_ANSWERS,
    OTHER_PROMPTS,
    OUT_OF_TOLERANCE,
    Ending,
    changed,
    error,
    not_compared,
)
from scanproof.faults.gates.gate_fault import AUTO, Edit, GateFault, Remove, after_a_session
from scanproof.faults.gates.gate_session import JOB, MODEL
from scanproof.faults.gates.harness import NOT_FINITE

CHECKPOINT = f"mirror/scanproof/{MODEL}"
WEIGHTS = f"{CHECKPOINT}/model.safetensors"
TOKENIZER = f"{CHECKPOINT}/tokenizer.json"
SPOILED_WEIGHTS = Edit(WEIGHTS, change.change_tensors(r"\.D$", lambda value: value * value.dtype.type(1.02)))
"""The skip of every layer, 2% too large: too little for the printed numbers, CHANGED against the answers."""
SPOILED = changed(OTHER_ANSWERS.says)
"""How a session ends whose checkpoint has `SPOILED_WEIGHTS`."""
ALL_NOT_FINITE = error(f"400 of 400 {NOT_FINITE}")


def in_checkpoint(name: str, what: str, pattern: str, values: Callable[[Any], Any], ending: Ending) -> GateFault:
    """A fault of tensors of the checkpoint."""
    return GateFault(name, "checkpoints", what, (Edit(WEIGHTS, change.change_tensors(pattern, values)),), ending)


def in_tokenizer(name: str, what: str, changed: Callable[[Any], Any], ending: Ending) -> GateFault:
    """A fault of the tokenizer's file."""
    return GateFault(name, "tokenizers", what, (Edit(TOKENIZER, change.change_json(changed)),), ending)


def in_config(name: str, what: str, planted: change.BytesChange, says: str) -> GateFault:
    """A fault of the checkpoint's configuration, which then does not fit its tensors."""
    return GateFault(name, "configs", what, (Edit(f"{CHECKPOINT}/config.json", planted),), error(says))


def in_job(name: str, area: str, what: str, pattern: str, new: str, ending: Ending) -> GateFault:
    """A fault of the expected values' file."""
    return GateFault(name, area, what, (Edit(JOB, change.replace_text(pattern, new)),), ending)


def add_bos(tokenizer: Any) -> Any:
    """A tokenizer that puts a BOS token before each text."""
    bos, text = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    processor = {
        "type": "TemplateProcessing",
        "single": [bos, text],
        "pair": [bos, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    }
    return {**tokenizer, "post_processor": processor}


def without_merges(tokenizer: Any) -> Any:
    """A tokenizer that has forgotten its last 200 merges."""
    return {**tokenizer, "model": {**tokenizer["model"], "merges": tokenizer["model"]["merges"][:-200]}}


def with_tokens_swapped(tokenizer: Any) -> Any:
    """A tokenizer in which two common tokens have each other's number."""
    vocabulary = tokenizer["model"]["vocab"]
    one, other = "Ġthe", "Ġa"
    swapped = {**vocabulary, one: vocabulary[other], other: vocabulary[one]}
    return {**tokenizer, "model": {**tokenizer["model"], "vocab": swapped}}


def add_to_row(value: Any, row: int, number: float) -> Any:
    """The values with a number added to those of one row."""
    changed = value.copy()
    changed[row] += number
    return changed


def make_nan(value: Any) -> Any:
    """NaN in place of every value."""
    return value * value.dtype.type("nan")


def flip_exponent(value: Any) -> Any:
    """Flip a bit of the exponent of the first of float32 weights."""
    changed = value.copy()
    changed.view("uint32")[0, 0] ^= 1 << 24
    return changed


FAULTS = (
    GateFault("skip_too_large", "checkpoints", "The skip of every layer is 2% too large.", (SPOILED_WEIGHTS,), SPOILED),
    # A_log is a logarithm: adding to it scales the decay.
    in_checkpoint(
        "one_channel",
        "The decay of one channel is 1% too large.",
        r"layers\.1\.mixer\.A_log$",
        lambda value: add_to_row(value, 7, 0.01),
        CHANGED,
    ),
    in_checkpoint(
        "layer_negated",
        "One layer's output is negated.",
        r"layers\.0\.mixer\.out_proj\.weight$",
        lambda value: -value,
        OUT_OF_TOLERANCE,
    ),
    in_checkpoint("norm_nan", "The last norm is NaN.", r"norm_f\.weight$", make_nan, ALL_NOT_FINITE),
    GateFault(
        "norm_nan_by_both_engines",
        "checkpoints",
        "The last norm is NaN, and the engine is `auto`.",
        (Edit(WEIGHTS, change.change_tensors(r"norm_f\.weight$", make_nan)),),
        ALL_NOT_FINITE,
        options=AUTO,
    ),
    in_checkpoint(
        "norm_zero",
        "The last norm is zero, all logits are equal.",
        r"norm_f\.weight$",
        lambda value: value * 0,
        error("all answers are exactly equal in"),
    ),
    in_checkpoint(
        "tensor_missing",
        "A tensor is missing.",
        r"layers\.2\.mixer\.D$",
        lambda value: None,
        error(r"model\.safetensors: backbone\.layers\.2\.mixer\.D: missing"),
    ),
    in_checkpoint(
        "weights_in_half", "The file's weights are float16.", "", lambda value: value.astype("float16"), CHANGED
    ),
    GateFault(
        "checkpoint_cut",
        "checkpoints",
        "The checkpoint ends in its middle.",
        (Edit(WEIGHTS, change.cut),),
        error(r"CheckpointError: .*model\.safetensors"),
    ),
    in_checkpoint(
        "checkpoint_bit",
        "One bit of a weight's exponent is flipped.",
        r"layers\.1\.mixer\.in_proj\.weight$",
        flip_exponent,
        CHANGED,
    ),
    in_checkpoint(
        "tied_bit",
        "One bit of the output's embedding is flipped, which is also the input's.",
        r"^lm_head\.weight$",
        flip_exponent,
        error(r"lm_head\.weight: differs from backbone\.embedding\.weight"),
    ),
    GateFault(
        "checkpoint_missing",
        "checkpoints",
        "The checkpoint is gone.",
        (Remove(CHECKPOINT),),
        error(f"has no model scanproof/{MODEL}"),
    ),
    in_tokenizer("tokenizer_adds_bos", "It puts a BOS token before each text.", add_bos, CHANGED),
    in_tokenizer("merges_forgotten", "Its last 200 merges are gone.", without_merges, OUT_OF_TOLERANCE),
    in_tokenizer(
        "tokens_swapped", "Two common tokens have each other's number.", with_tokens_swapped, OUT_OF_TOLERANCE
    ),
    in_tokenizer(
        "lower_case",
        "It reads all letters as small ones.",
        lambda told: {**told, "normalizer": {"type": "Lowercase"}},
        OUT_OF_TOLERANCE,
    ),
    GateFault(
        "tokenizer_missing",
        "tokenizers",
        "Its files are gone.",
        (Remove(f"{CHECKPOINT}/tokenizer*"),),
        error("has no model EleutherAI/gpt-neox-20b"),
    ),
    in_config(
        "layer_fewer",
        "It has a layer fewer.",
        change.replace_text(r'"n_layer": 4', '"n_layer": 3'),
        r"backbone\.layers\.3\.\S+: the config has no place for it",
    ),
    in_config(
        "smaller_state",
        "It has half the states.",
        change.replace_text(r'"d_state": 8', '"d_state": 4'),
        r"A_log: shape \(128, 8\), but the config asks for",
    ),
    in_config(
        "other_norm",
        "It asks for the other norm.",
        change.replace_text(r'"rms_norm": true', '"rms_norm": false'),
        r"norm\.bias: missing",
    ),
    in_config("config_empty", "It is an empty object.", lambda _: b"{}\n", r"config\.json: d_model: missing"),
    in_job(
        "job_of_short_texts", "truncation", "The job asks for 30 tokens.", r"max_length: \d+", "max_length: 30", CHANGED
    ),
    in_job(
        "job_in_bfloat16",
        "dtype",
        "The job asks for bfloat16.",
        "dtype: float32",
        "dtype: bfloat16",
        not_compared("float32.*bfloat16|bfloat16.*float32"),
    ),
    in_job(
        "job_in_float16",
        "dtype",
        "The job asks for float16.",
        "dtype: float32",
        "dtype: float16",
        not_compared("float32.*float16|float16.*float32"),
    ),
    in_job(
        "job_with_examples",
        "few-shot",
        "The job asks for two examples.",
        "num_fewshot: 0",
        "num_fewshot: 2",
        OTHER_PROMPTS,
    ),
    in_job(
        "job_limited",
        "options",
        "The job has a limit of three documents.",
        "(\n +)batch_size:",
        r"\1limit: 3\1batch_size:",
        not_compared("a subset of the documents was scored"),
    ),
    after_a_session(
        "stale_checkpoint_digest",
        "caches",
        "After a session the weights change, size and times stay.",
        Edit(WEIGHTS, SPOILED_WEIGHTS.change, keeps_size_and_time=True),
        ending=SPOILED,
    ),
)
