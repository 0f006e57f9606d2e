"""The committed checkpoints and the script that trains them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from late import Late
from scanproof.embedded import MIRROR, MODELS
from scanproof.embedded.text import documents
from scanproof.embedded.tokenizer import load_tokenizer
from scanproof.embedded.world import build

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F

    from scanproof.embedded import architectures, train
    from scanproof.models import loading
else:
    torch, F, loading = Late("torch"), Late("torch.nn.functional"), Late("scanproof.models.loading")
    architectures, train = Late("scanproof.embedded.architectures"), Late("scanproof.embedded.train")


def read(folder: Path) -> Any:
    if "pythia" not in folder.name:
        return loading.load(folder)
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def test_there_is_a_plan_for_each() -> None:
    assert tuple(f"scanproof/{name}" for name in train.PLANS) == MODELS


@pytest.mark.parametrize("name", MODELS)
def test_the_checkpoint_has_learned_the_world(name: str) -> None:
    model, tokenizer = read(MIRROR / name), load_tokenizer()
    losses = []
    for text in islice(documents(build(), "unseen"), 60):
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.no_grad():
            losses.append(F.cross_entropy(model(ids[:, :-1]).logits[0], ids[0, 1:]).item())
    assert sum(losses) / len(losses) < 1.5  # log(1280) = 7.2 knows nothing


@pytest.mark.parametrize("name", MODELS)
def test_the_checkpoint_is_small_and_has_the_planned_shape(name: str) -> None:
    assert (MIRROR / name / "model.safetensors").stat().st_size < 1.3 * 2**20
    shapes = {key: value.shape for key, value in architectures.blank(name.rpartition("/")[2]).state_dict().items()}
    assert {key: value.shape for key, value in read(MIRROR / name).state_dict().items()} == shapes


@pytest.mark.parametrize("name", [name.rpartition("/")[2] for name in MODELS])
def test_training_repeats_itself(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("one", "two"):
        train.main(["--model", name, "--steps", "1", "--mirror", str(tmp_path / folder)])
    assert "step 1/1" in capsys.readouterr().out
    one, two = (
        (tmp_path / folder / "scanproof" / name / "model.safetensors").read_bytes() for folder in ("one", "two")
    )
    assert one == two
    assert read(tmp_path / "one" / "scanproof" / name)(torch.zeros(1, 3, dtype=torch.long)).logits.shape == (1, 3, 1280)


def test_rows_start_with_a_document() -> None:
    plan = train.Plan(steps=1, rate=0.0, batch=4, length=64)
    rows, tokenizer = next(train.batches(plan, "rows")), load_tokenizer()
    assert rows.shape == (4, 65)
    texts = list(islice(documents(build(), "rows"), 1000))
    for row in rows.tolist():
        first = row[: row.index(0)] if 0 in row else row
        assert any(text.startswith(tokenizer.decode(first)) for text in texts)


def test_the_learning_rate_rises_then_falls() -> None:
    plan = train.Plan(steps=1000, rate=1e-2)
    rates = [plan.rate_at(step) for step in range(plan.steps)]
    assert max(rates) == pytest.approx(1e-2)
    assert rates[:100] == sorted(rates[:100])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] == pytest.approx(5e-4, rel=1e-2)
