"""NVIDIA's Megatron layout: values against float64, the interleaved projection, and every mistake by file and key."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.models.layout import CheckpointError
from tests.support import small_megatron as small
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.models.megatron import architecture, conversion, reading, tokenizer
    from tests.support import counted_memory as counted
else:
    torch, counted = Late("torch"), Late("tests.support.counted_memory")
    architecture, conversion = (Late(f"scanproof.models.megatron.{name}") for name in ("architecture", "conversion"))
    reading, tokenizer = (Late(f"scanproof.models.megatron.{name}") for name in ("reading", "tokenizer"))

PATTERN_8B = "M-M-M--M-M*-M-M-M-M--M*-M-M-M-M-M*--M-M-M-M-M*-M--M-M-M-"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write(tmp_path_factory.mktemp("published"))


def load(folder: Path, dtype: str | None = None) -> Any:
    return conversion.build(reading.read_checkpoint(folder), None if dtype is None else getattr(torch, dtype))


def ids(length: int) -> torch.Tensor:
    return torch.randint(0, small.ROWS, (2, length), generator=torch.Generator().manual_seed(length))


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load(folder)
    return str(error.value)


def rewritten(folder: Path, **changes: torch.Tensor | None) -> Path:
    """A checkpoint with some tensors changed; None removes a tensor."""
    content = {key: value for key, value in (small.tensors() | changes).items() if value is not None}
    return small.write(folder, content)


@pytest.mark.parametrize("length", [1, 7, 131])
def test_logits_are_those_of_a_float64_implementation(published: Path, length: int) -> None:
    expected = small.logits(small.tensors(), ids(length))
    torch.testing.assert_close(load(published)(ids(length)).logits.double(), expected, atol=2e-5, rtol=0)


def test_plainly_concatenated_projections_are_another_model(tmp_path: Path, published: Path) -> None:
    """Queries, keys and values one after the other have the same shape; only the numbers show the difference."""
    plain = small.tensors()
    for key in plain:
        if key.endswith("linear_qkv.weight"):
            plain[key] = torch.cat(conversion.split_qkv(plain[key], small_architecture(published)))
    theirs = load(rewritten(tmp_path, **plain))(ids(9)).logits
    assert (theirs - load(published)(ids(9)).logits).abs().max() > 0.1


def small_architecture(folder: Path) -> architecture.Architecture:
    checkpoint = reading.read_checkpoint(folder)
    return architecture.read_architecture(checkpoint.args, checkpoint.path)


def test_the_projection_is_taken_apart_row_by_row(published: Path) -> None:
    """Two groups of three query heads: q q q k v q q q k v, eight rows each."""
    rows = torch.arange(80).repeat_interleave(24).view(80, 24)
    q, k, v = conversion.split_qkv(rows, small_architecture(published))
    assert q[:, 0].tolist() == [*range(0, 24), *range(40, 64)]
    assert k[:, 0].tolist() == [*range(24, 32), *range(64, 72)]
    assert v[:, 0].tolist() == [*range(32, 40), *range(72, 80)]


def test_the_8b_model_is_known_without_stored_arguments() -> None:
    known = architecture.read_architecture(None, Path("model_optim_rng.pt"))
    assert known.hybrid_override_pattern == PATTERN_8B
    network = conversion.make_blank(conversion.make_nemotron_config(known, 256_000))
    assert sum(parameter.numel() for parameter in network.parameters()) == 8_654_517_248
    shapes = conversion.expected_shapes(known, network)
    assert shapes["decoder.layers.10.self_attention.linear_qkv.weight"] == (6144, 4096)
    assert shapes["decoder.layers.0.mixer.in_proj.weight"] == (18_560, 4096)
    assert len(shapes) == 3 + 24 * 9 + 4 * 3 + 28 * 3


def test_every_published_key_has_one_place(published: Path) -> None:
    network = conversion.make_blank(conversion.make_nemotron_config(small_architecture(published), small.ROWS))
    assert conversion.expected_shapes(small_architecture(published), network) == small.shapes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_every_weight_has_the_dtype_asked_for(published: Path, dtype: str) -> None:
    assert {value.dtype for value in load(published, dtype).parameters()} == {getattr(torch, dtype)}


def test_the_tracker_names_the_folder(tmp_path: Path, published: Path) -> None:
    folder = Path(shutil.copytree(published, tmp_path / "saved"))
    (folder / "release").rename(folder / "iter_0000007")
    (folder / "latest_checkpointed_iteration.txt").write_text("7\n")
    assert torch.equal(load(folder)(ids(5)).logits, load(published)(ids(5)).logits)


class TestMistakes:
    """Each error names the file and the key."""

    def test_all_wrong_tensors_are_named_at_once(self, tmp_path: Path) -> None:
        changes: dict[str, Any] = {
            "decoder.layers.0.mixer.D": None,
            "decoder.layers.3.self_attention.linear_qkv.weight": torch.zeros(79, 24),
            "decoder.layers.1.mlp.linear_fc1.bias": torch.zeros(40),
        }
        told = refused(rewritten(tmp_path, **changes)).splitlines()
        path = tmp_path / small.WEIGHTS
        assert told == [
            f"{path}: decoder.layers.0.mixer.D: missing",
            f"{path}: decoder.layers.1.mlp.linear_fc1.bias: the architecture has no place for it",
            f"{path}: decoder.layers.3.self_attention.linear_qkv.weight: shape (79, 24), "
            "but the architecture asks for (80, 24)",
        ]

    def test_embeddings_and_head_of_different_sizes(self, tmp_path: Path) -> None:
        told = refused(rewritten(tmp_path, **{"output_layer.weight": torch.zeros(500, 24)}))
        assert "output_layer.weight: shape (500, 24), but the architecture asks for (512, 24)" in told

    def test_no_embedding(self, tmp_path: Path) -> None:
        told = refused(rewritten(tmp_path, **{"embedding.word_embeddings.weight": None}))
        assert told == f"{tmp_path / small.WEIGHTS}: embedding.word_embeddings.weight: missing, or not a matrix"

    @pytest.mark.parametrize("name", ["hidden_size", "kv_channels", "norm_epsilon"])
    def test_an_argument_that_is_needed(self, tmp_path: Path, name: str) -> None:
        small.write(tmp_path, args={key: value for key, value in (small.SIZES | small.OTHERS).items() if key != name})
        assert refused(tmp_path).startswith(f"{tmp_path / small.WEIGHTS}: args.{name}: missing")

    @pytest.mark.parametrize(
        ("name", "value", "told"),
        [
            ("position_embedding_type", "rope", "'rope' is not supported, attention would need position embeddings"),
            ("apply_layernorm_1p", True, "True is not supported, the norms would store their weight minus one"),
            ("squared_relu", True, "True is not supported, the MLP would not be GELU"),
            ("tensor_model_parallel_size", 2, "2 is not supported, the tensors would be split over several files"),
            ("hidden_size", "24", "expected a positive int, found '24'"),
            ("hybrid_override_pattern", "M-E*M-*-", "'E' is no kind of layer that is supported (M, *, -)"),
            ("num_query_groups", 4, "num_attention_heads by num_query_groups leaves a rest (6 by 4)"),
        ],
    )
    def test_an_argument_that_cannot_be_followed(self, tmp_path: Path, name: str, value: object, told: str) -> None:
        small.write(tmp_path, args=small.SIZES | small.OTHERS | {name: value})
        message = refused(tmp_path)
        assert message.startswith(f"{tmp_path / small.WEIGHTS}: args")
        assert told in message

    def test_a_truncated_file(self, tmp_path: Path, published: Path) -> None:
        folder = Path(shutil.copytree(published, tmp_path / "cut"))
        whole = (folder / small.WEIGHTS).read_bytes()
        (folder / small.WEIGHTS).write_bytes(whole[: len(whole) // 2])
        assert refused(folder).startswith(f"{folder / small.WEIGHTS}: not a readable Megatron checkpoint (truncated?)")

    def test_no_weights(self, tmp_path: Path) -> None:
        assert refused(tmp_path) == (
            f"{tmp_path / small.WEIGHTS}: there is no such file; a Megatron checkpoint folder needs it"
        )

    def test_a_file_without_a_model(self, tmp_path: Path) -> None:
        small.write(tmp_path)
        torch.save({"iteration": 1}, tmp_path / small.WEIGHTS)
        assert (
            refused(tmp_path)
            == f"{tmp_path / small.WEIGHTS}: model: missing; Megatron keeps the weights under this key"
        )

    def test_a_second_rank(self, tmp_path: Path, published: Path) -> None:
        folder = Path(shutil.copytree(published, tmp_path / "two"))
        shutil.copytree(folder / "release/mp_rank_00", folder / "release/mp_rank_01")
        assert "mp_rank_01: the model is split over several ranks" in refused(folder)


class Runs:
    """Calls a function when a loader unpickles it without checks."""

    def __init__(self, function: Any, canary: object) -> None:
        self.call = (function, (canary,))

    def __reduce__(self) -> Any:
        return self.call


def test_a_pickle_that_runs_code_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    small.write(tmp_path, note=Runs(os.mkdir, str(canary)))
    told = refused(tmp_path)
    assert f"its pickle asks for {os.mkdir.__module__}.mkdir, which no checkpoint of weights needs" in told
    assert told.endswith("the file is refused and nothing of it was run")
    assert not canary.exists()
    with small.megatron_enum():
        torch.load(tmp_path / small.WEIGHTS, weights_only=False)
    assert canary.exists(), "the canary is dead: the test above proves nothing"


def test_what_passes_for_an_object_of_megatron_does_nothing_either(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    def touch(path: str) -> None:
        Path(path).touch()

    with small.megatron_enum():
        touch.__module__, touch.__qualname__ = "megatron.core.enums", "touch"
        sys.modules["megatron.core.enums"].touch = touch  # type: ignore[attr-defined]
        small.write(tmp_path, note=Runs(touch, str(canary)))
        assert reading.read_checkpoint(tmp_path).tensors.keys() == small.shapes().keys()
        assert not canary.exists()
        torch.load(tmp_path / small.WEIGHTS, weights_only=False)
    assert canary.exists(), "the canary is dead: the test above proves nothing"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_loading_takes_the_memory_of_the_weights_once(tmp_path: Path, dtype: str) -> None:
    """The weights, a twentieth of the checkpoint and one tensor: converted before the file is mapped again."""
    sizes = small.SIZES | {"hidden_size": 128, "ffn_hidden_size": 512, "hybrid_override_pattern": "M-*-M-M-M-*-"}
    sizes |= {"num_layers": 12, "num_attention_heads": 8, "kv_channels": 16, "mamba_head_dim": 64}
    tensors = small.tensors(sizes, 1024, "bfloat16")
    small.write(tmp_path, tensors, sizes | small.OTHERS)
    with counted.counted_memory() as memory:
        network = conversion.build(reading.read_checkpoint(tmp_path), getattr(torch, dtype))
        counted.read(network)
    weights = sum(weight.nbytes for weight in network.parameters())
    stored = [each.nbytes for each in tensors.values()]
    assert weights <= memory.peak <= weights + sum(stored) // 20 + max(stored) + counted.LITTLE


class TestTokenizer:
    PROBES = (
        "", " ", "  two before", "two after  ", "a\n\n b\t c", "1234", "naïve 東京 🎉", "</s> <unk> <s> x", "▁x",
        "\uff21\uff11", "<0x41>", "which  of these is number 17?",
    )  # fmt: skip

    @pytest.mark.parametrize("changes", [{}, {"add_dummy_prefix": True, "remove_extra_whitespaces": True}])
    def test_ids_are_those_of_sentencepiece(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        from sentencepiece import SentencePieceProcessor

        (tmp_path / small.TOKENIZER).write_bytes(small.sentencepiece(**changes))
        ours = tokenizer.read_tokenizer(tmp_path, small.ROWS)
        theirs = SentencePieceProcessor(model_file=str(tmp_path / small.TOKENIZER))
        for text in self.PROBES:
            assert ours(text)["input_ids"] == theirs.encode_as_ids(text), text
        assert len(ours) == theirs.vocab_size()

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"\*\.model: there is no such file; the tokenizer is needed"):
            tokenizer.read_tokenizer(tmp_path, small.ROWS)

    def test_two_files(self, tmp_path: Path) -> None:
        for name in ("a.model", "b.model"):
            (tmp_path / name).touch()
        with pytest.raises(CheckpointError, match=r"a\.model, b\.model: which one is the tokenizer"):
            tokenizer.read_tokenizer(tmp_path, small.ROWS)

    def test_another_kind_of_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.model").write_text("no protocol buffer")
        with pytest.raises(CheckpointError, match=r"a\.model: not a SentencePiece model"):
            tokenizer.read_tokenizer(tmp_path, small.ROWS)

    def test_more_pieces_than_embeddings(self, published: Path) -> None:
        with pytest.raises(CheckpointError, match="has 360 pieces, the model has 359 embeddings"):
            tokenizer.read_tokenizer(published, 359)
