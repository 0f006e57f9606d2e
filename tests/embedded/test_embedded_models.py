"""The committed checkpoints and the script that trains them."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.embedded import CONVERTED, MEGATRON, MIRROR, MODELS, convert
from scanproof.embedded.text import generate_documents
from scanproof.embedded.tokenizer import load_codec, load_tokenizer
from scanproof.embedded.world import build_world
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F

    from scanproof.embedded import architectures, megatron_folder, train
    from scanproof.models import loading
    from scanproof.models.mamba_in_llama import config as hybrid_config
    from scanproof.models.mamba_in_llama import loading as hybrids
    from scanproof.models.megatron import architecture, conversion, reading
    from tests.support import small_megatron
else:
    torch, F, loading = Late("torch"), Late("torch.nn.functional"), Late("scanproof.models.loading")
    hybrids, hybrid_config = (
        Late("scanproof.models.mamba_in_llama.loading"),
        Late("scanproof.models.mamba_in_llama.config"),
    )
    architectures, train = Late("scanproof.embedded.architectures"), Late("scanproof.embedded.train")
    megatron_folder, small_megatron = Late("scanproof.embedded.megatron_folder"), Late("tests.support.small_megatron")
    architecture, conversion, reading = (
        Late("scanproof.models.megatron.architecture"),
        Late("scanproof.models.megatron.conversion"),
        Late("scanproof.models.megatron.reading"),
    )

TRAINED = tuple(name for name in MODELS if name != CONVERTED)


def read(folder: Path) -> Any:
    if folder.name in architectures.HYBRIDS:
        first = "ngroups" not in architectures.HYBRIDS[folder.name]["ssm"]
        mixer = hybrid_config.Mamba1Settings if first else hybrid_config.Mamba2Settings
        return hybrids.load(folder, mixer, hybrids.Precision(weights=torch.float32))
    if folder.name in architectures.MEGATRON_HYBRIDS:
        return conversion.build(reading.read_checkpoint(folder), torch.float32)
    if folder.name in architectures.STATE_SPACES:
        return loading.load(folder)
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def weights(folder: Path) -> Path:
    """The file with the checkpoint's tensors."""
    release = folder / "release/mp_rank_00/model_optim_rng.pt"
    return release if release.is_file() else folder / "model.safetensors"


CONVOLVED = tuple(
    f"scanproof/{name}" for name in ("mamba-hybrid-tiny", "mamba2-hybrid-tiny", "megatron-hybrid-tiny", "mamba-7b-tiny")
)
"""Stand-ins whose class calls causal_conv1d's kernel itself; that of the others is mamba_ssm's, which copies first."""


@pytest.mark.parametrize("name", CONVOLVED)
def test_on_a_gpu_the_kernel_takes_what_each_convolution_reads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where channels are contiguous, causal_conv1d refuses rows and positions that are no multiple of 8 apart."""
    read_by = []

    def look(call: Any) -> Any:
        def convolve(x: Any, *arguments: Any, **options: Any) -> Any:
            read_by.append((tuple(x.shape), x.stride()))
            return call(x, *arguments, **options)

        return convolve

    model = read(MIRROR / name)
    if name.rpartition("/")[2] in architectures.HYBRIDS:
        for mixer in (module for module in model.modules() if hasattr(module, "ops")):
            mixer.ops = replace(mixer.ops, causal_conv1d_fn=look(mixer.ops.causal_conv1d_fn))
    else:
        code = sys.modules[type(model).__module__]
        monkeypatch.setattr(code, "causal_conv1d_fn", look(code.causal_conv1d_fn))
    with torch.no_grad():
        # An odd number of positions: rows are a multiple of 8 apart only where positions are.
        model(torch.zeros(2, 7, dtype=torch.long))
    assert read_by
    for shape, (row, channel, position) in read_by:
        assert channel != 1 or (row % 8, position % 8) == (0, 0), shape


def test_a_model_with_halved_heads_computes_the_same() -> None:
    (name,) = architectures.HALVED
    torch.manual_seed(0)
    whole = architectures.make_blank(name, whole_heads=True).eval()
    halved = architectures.finish_heads(name, whole).eval()
    ids = torch.randint(0, 1280, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(halved(ids).logits, whole(ids).logits, rtol=0.0, atol=1e-5)
    assert halved.config.mamba_num_heads == 2 * whole.config.mamba_num_heads


def test_heads_of_others_stay_whole() -> None:
    model = architectures.make_blank("mamba2-tiny", whole_heads=True)
    assert architectures.finish_heads("mamba2-tiny", model) is model


def test_there_is_a_plan_for_each_but_the_converted_one() -> None:
    assert tuple(f"scanproof/{name}" for name in train.PLANS) == TRAINED


@pytest.mark.parametrize("name", MODELS)
def test_the_checkpoint_has_learned_the_world(name: str) -> None:
    model, tokenizer = read(MIRROR / name), load_codec(MIRROR / name)
    losses = []
    for text in islice(generate_documents(build_world(), "unseen"), 60):
        ids = torch.tensor(tokenizer.encode([text]))
        with torch.no_grad():
            losses.append(F.cross_entropy(model(ids[:, :-1]).logits[0], ids[0, 1:]).item())
    assert sum(losses) / len(losses) < 1.5  # log(1280) = 7.2 knows nothing


@pytest.mark.parametrize("name", MODELS)
def test_the_checkpoint_is_small(name: str) -> None:
    assert sum(path.stat().st_size for path in (MIRROR / name).rglob("*") if path.is_file()) < 0.8 * 2**20


def test_all_that_is_shipped_is_small() -> None:
    """Checkpoints, data and recorded answers: 20 MiB is the bound."""
    answers = MIRROR.parents[2] / "expected" / "embedded"
    files = [path for folder in (MIRROR, answers) for path in folder.rglob("*") if path.is_file()]
    assert 5 * 2**20 < sum(path.stat().st_size for path in files) < 20 * 2**20


@pytest.mark.parametrize("name", TRAINED)
def test_the_checkpoint_has_the_planned_shape(name: str) -> None:
    shapes = {key: value.shape for key, value in architectures.make_blank(name.rpartition("/")[2]).state_dict().items()}
    assert {key: value.shape for key, value in read(MIRROR / name).state_dict().items()} == shapes


@pytest.mark.parametrize("name", [name.rpartition("/")[2] for name in TRAINED])
def test_training_repeats_itself(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("one", "two"):
        train.main(["--model", name, "--steps", "1", "--mirror", str(tmp_path / folder)])
    assert "step 1/1" in capsys.readouterr().out
    one, two = (weights(tmp_path / folder / "scanproof" / name).read_bytes() for folder in ("one", "two"))
    assert one == two
    assert read(tmp_path / "one" / "scanproof" / name)(torch.zeros(1, 3, dtype=torch.long)).logits.shape == (1, 3, 1280)


def test_rows_start_with_a_document() -> None:
    plan = train.TrainingPlan(steps=1, rate=0.0, batch=4, length=64)
    tokenizer = load_tokenizer()
    rows = next(train.make_batches(plan, load_codec(MIRROR / MODELS[0]), "rows"))
    assert rows.shape == (4, 65)
    texts = list(islice(generate_documents(build_world(), "rows"), 1000))
    for row in rows.tolist():
        first = row[: row.index(0)] if 0 in row else row
        assert any(text.startswith(tokenizer.decode(first)) for text in texts)


def test_rows_of_sentencepiece_ids_end_documents_with_its_own_end() -> None:
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(MIRROR / MEGATRON / "tokenizer.model"))
    plan = train.TrainingPlan(steps=1, rate=0.0, batch=4, length=64)
    texts = list(islice(generate_documents(build_world(), "rows"), 1000))
    for row in next(train.make_batches(plan, load_codec(MIRROR / MEGATRON), "rows")).tolist():
        first = row[: row.index(pieces.eos_id())] if pieces.eos_id() in row else row
        assert any(text.startswith(pieces.decode(first)) for text in texts)


def test_the_shipped_mamba_7b_layout_is_what_the_conversion_writes(tmp_path: Path) -> None:
    convert.main(tmp_path)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / CONVERTED / name).read_bytes() == (MIRROR / CONVERTED / name).read_bytes(), name


def test_both_layouts_of_the_converted_checkpoint_give_the_same_logits() -> None:
    ids = torch.randint(0, 1280, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, two = (read(MIRROR / name)(ids).logits for name in (convert.SOURCE, CONVERTED))
    torch.testing.assert_close(one, two, rtol=0.0, atol=1e-4)


def test_the_megatron_folder_holds_the_model_that_was_written(tmp_path: Path) -> None:
    """Compared with Megatron's layout as `small_megatron` implements it, independently."""
    fields = architectures.MEGATRON_HYBRIDS["megatron-hybrid-tiny"]
    torch.manual_seed(0)
    network = architectures.make_blank("megatron-hybrid-tiny").eval()
    megatron_folder.save(network, architecture.Architecture(**fields), tmp_path, torch.float32)
    checkpoint = reading.read_checkpoint(tmp_path)
    assert {key: tuple(value.shape) for key, value in checkpoint.tensors.items()} == small_megatron.shapes(fields, 1280)
    ids = torch.randint(0, 1280, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = network(ids).logits
    found = small_megatron.logits(checkpoint.tensors, ids, fields).float()
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=1e-5)
    assert wanted.std() > 0.05


def test_the_learning_rate_rises_then_falls() -> None:
    plan = train.TrainingPlan(steps=1000, rate=1e-2)
    rates = [plan.rate_at(step) for step in range(plan.steps)]
    assert max(rates) == pytest.approx(1e-2)
    assert rates[:100] == sorted(rates[:100])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] == pytest.approx(5e-4, rel=1e-2)
