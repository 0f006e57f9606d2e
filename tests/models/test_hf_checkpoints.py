"""Checkpoints that the documents load with lm-eval's `hf`, in their published layouts, through the production code.

The networks are transformers'; what is checked is that the whole way from the files to the scores is theirs: weights
in one file or in shards, pickled or not, tokenizer, BOS policy of the expected file, code of the checkpoint.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.errors import EvaluationError
from scanproof.numbers.expected.reader import load
from scanproof.numbers.values import EvalJob
from tests.support import embedded_scores as scores
from tests.support import small_mirror
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    import transformers

    from scanproof.models import language_model
else:
    torch, transformers = Late("torch"), Late("transformers")
    language_model = Late("scanproof.models.language_model")

ROOT = Path(__file__).parents[2]
ROWS, DOCUMENTS = 384, 2
COMMON = {"vocab_size": ROWS, "hidden_size": 24, "num_hidden_layers": 2, "initializer_range": 0.3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40, "max_position_embeddings": 2048}
MAMBA = {"state_size": 4, "conv_kernel": 4, "expand": 2, "time_step_rank": 3, "tie_word_embeddings": False}
ROPE = {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}  # fmt: skip
LAYOUTS: dict[str, tuple[str, dict[str, Any], str]] = {
    # hub id in the document -> transformers' class, sizes, format of the weights
    "tri-ml/mamba-7b-rw": ("Mamba", COMMON | MAMBA, "shards"),
    "EleutherAI/pythia-160m": ("GPTNeoX", COMMON | HEADS, "bin"),
    "meta-llama/Llama-2-7b-hf": ("Llama", COMMON | HEADS, "shards of bin"),
    "meta-llama/Llama-3.2-3B-Instruct": ("Llama", COMMON | HEADS | ROPE | {"tie_word_embeddings": True}, "safetensors"),
    "google/gemma-7b": ("Gemma", COMMON | HEADS | {"head_dim": 16}, "shards"),
    "mistralai/Mistral-7B-v0.1": ("Mistral", COMMON | HEADS | {"sliding_window": 4096}, "safetensors"),
}


def published_job(hub_id: str) -> EvalJob:
    """The document's job with a small model: class, BOS policy and arguments are unchanged."""
    jobs = [value.job for value in load(ROOT / "expected").values if value.job.pretrained == hub_id]
    return replace(
        jobs[0],
        dtype="float32",
        device="cpu",
        num_fewshot=0,
        batch_size=4,
        limit=DOCUMENTS,
        tasks=("arc_easy", "piqa"),
        kernels=(),
    )


def network(hub_id: str) -> Any:
    kind, sizes, _ = LAYOUTS[hub_id]
    torch.manual_seed(4)
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("norm.weight", "layernorm.weight", "norm_f.weight")):
                value.add_(0.3 * torch.randn_like(value))
    return model.eval()


def write(folder: Path, hub_id: str) -> None:
    """Write weights, config and a tokenizer that adds a BOS token by itself, like Llama's."""
    model, layout = network(hub_id), LAYOUTS[hub_id][2]
    model.save_pretrained(folder, max_shard_size="20KB" if layout.startswith("shards") else "5GB")
    if "bin" in layout:
        pickle_weights(folder)
    tokenizer().save_pretrained(folder)


def pickle_weights(folder: Path) -> None:
    """Convert safetensors to the older pickle files."""
    from safetensors.torch import load_file

    for path in folder.glob("*.safetensors"):
        torch.save(load_file(path), folder / f"{path.stem.replace('model', 'pytorch_model')}.bin")
        path.unlink()
    index = folder / "model.safetensors.index.json"
    if index.exists():
        text = index.read_text().replace("model-0", "pytorch_model-0").replace(".safetensors", ".bin")
        (folder / "pytorch_model.bin.index.json").write_text(text)
        index.unlink()


def tokenizer() -> Any:
    """Bytes as tokens, with <s> first unless it is switched off."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), start=3)}
    made = Tokenizer(models.BPE({"<unk>": 0, "<s>": 1, "</s>": 2, **letters}, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    kind: Any = transformers.PreTrainedTokenizerFast
    return kind(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scores.copy_datasets(tmp_path_factory.mktemp("hf") / "mirror")


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize("hub_id", LAYOUTS)
def test_published_layouts_load_and_score_with_the_bos_policy_of_their_document(
    tmp_path: Path, datasets: Path, hub_id: str
) -> None:
    mirror = Path(shutil.copytree(datasets, tmp_path / "mirror"))
    write(mirror / hub_id, hub_id)
    job = published_job(hub_id)
    assert job.model == "hf"
    evaluation = small_mirror.evaluate(job, small_mirror.settings(tmp_path, mirror), progress=small_mirror.ignore)
    bos = dict(job.model_args)["add_bos_token"]
    assert bos == (hub_id == "google/gemma-7b")
    precise, words = network(hub_id).double(), tokenizer()

    def encode(text: str) -> list[int]:
        ids: list[int] = words.encode(text, add_special_tokens=bos)
        return ids

    for task in job.tasks:
        with torch.no_grad():
            expected = scores.right_answers(task, DOCUMENTS, encode, lambda ids: precise(ids[:, :-1]).logits)
        assert scores.measured(evaluation, task) == pytest.approx(expected, abs=2e-2), task


def test_mamba_7b_is_transformers_mamba_without_tied_embeddings() -> None:
    """The published weights, under other names, in our own float64 implementation of Mamba."""
    from scanproof.models.layout import StateSpacesConfig

    theirs = network("tri-ml/mamba-7b-rw").eval()
    config = StateSpacesConfig(
        d_model=24, n_layer=2, vocab_size=ROWS, ssm_cfg={"d_state": 4, "dt_rank": 3}, tie_embeddings=False
    )
    ours = language_model.StateSpacesLM(config, torch.float64)
    state = {key.replace("backbone.embeddings", "backbone.embedding"): v for key, v in theirs.state_dict().items()}
    ours.load_state_dict(state)
    ids = torch.randint(0, ROWS, (2, 37), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits.double(), ours(ids).logits, atol=1e-3, rtol=1e-4)


REMOTE = """
from pathlib import Path
Path(CANARY).touch()
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
class Rwkv5Config(GPTNeoXConfig):
    model_type = "rwkv5"
class Rwkv5ForCausalLM(GPTNeoXForCausalLM):
    config_class = Rwkv5Config
"""


class TestCodeOfACheckpoint:
    HUB_ID = "RWKV/v5-Eagle-7B-HF"

    @pytest.fixture
    def mirror(self, tmp_path: Path, datasets: Path) -> Path:
        """A model whose code comes with its weights, like RWKV5's; the code creates a file when it runs."""
        from safetensors.torch import save_file

        mirror = Path(shutil.copytree(datasets, tmp_path / "mirror"))
        folder = mirror / self.HUB_ID
        write(folder, "EleutherAI/pythia-160m")
        (folder / "pytorch_model.bin").unlink()
        save_file(network("EleutherAI/pythia-160m").state_dict(), folder / "model.safetensors", {"format": "pt"})
        (folder / "modeling_rwkv5.py").write_text(REMOTE.replace("CANARY", repr(str(tmp_path / "canary"))))
        config = json.loads((folder / "config.json").read_text())
        names = {"AutoConfig": "modeling_rwkv5.Rwkv5Config", "AutoModelForCausalLM": "modeling_rwkv5.Rwkv5ForCausalLM"}
        config |= {"model_type": "rwkv5", "architectures": ["Rwkv5ForCausalLM"], "auto_map": names}
        (folder / "config.json").write_text(json.dumps(config))
        return mirror

    def job(self, reason: str | None) -> EvalJob:
        return replace(published_job(self.HUB_ID), trust_remote_code=reason, tasks=("piqa",))

    def test_it_does_not_run_by_itself(self, tmp_path: Path, mirror: Path) -> None:
        job = self.job(None)
        assert job.needs_remote_code
        with pytest.raises(EvaluationError, match="trust_remote_code"):
            small_mirror.evaluate(job, small_mirror.settings(tmp_path, mirror), progress=small_mirror.ignore)
        assert not (tmp_path / "canary").exists()

    def test_it_runs_once_somebody_said_why(self, tmp_path: Path, mirror: Path) -> None:
        settings = small_mirror.settings(tmp_path, mirror)
        evaluation = small_mirror.evaluate(self.job("read at commit abc"), settings, progress=small_mirror.ignore)
        assert (tmp_path / "canary").exists()
        assert evaluation.environment["network_class"].endswith("Rwkv5ForCausalLM")


def spoiled(folder: Path, how: str) -> None:
    if how == "shard":
        path = sorted(folder.glob("*.safetensors"))[1]
        path.write_bytes(path.read_bytes()[:-40])
    elif how == "tokenizer":
        for path in folder.glob("tokenizer*"):
            path.unlink()
    else:
        (folder / "config.json").unlink()


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("shard", "safetensors|Safetensor|header|incomplete"),
        ("tokenizer", "tri-ml/mamba-7b-rw: no tokenizer"),
        ("config", r"config.json|model_type"),
    ],
)
def test_a_folder_that_is_not_whole_is_a_checkpoint_error(tmp_path: Path, datasets: Path, how: str, told: str) -> None:
    hub_id = "tri-ml/mamba-7b-rw"
    mirror = Path(shutil.copytree(datasets, tmp_path / "mirror"))
    write(mirror / hub_id, hub_id)
    spoiled(mirror / hub_id, how)
    settings = small_mirror.settings(tmp_path, mirror)
    with pytest.raises(EvaluationError, match=told) as error:
        small_mirror.evaluate(published_job(hub_id), settings, progress=small_mirror.ignore)
    assert error.value.kind == "checkpoint"
