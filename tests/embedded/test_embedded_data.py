"""The stand-ins' data can be generated again byte for byte; schemas and prompts are those of lm-eval's tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from scanproof.embedded import MEGATRON, MIRROR, MODELS
from scanproof.embedded.data import collect_held_out, main, make_files, make_mmlu_rows, make_rows
from scanproof.embedded.suite import DATASETS, MMLU_PATH, SUBJECTS, Dataset, mmlu_header, mmlu_question
from scanproof.embedded.text import generate_documents
from scanproof.embedded.tokenizer import (
    SENTENCEPIECE,
    load_codec,
    load_tokenizer,
    train_byte_level,
    train_sentencepiece,
)
from scanproof.embedded.world import World, build_world

COLUMNS = {
    "allenai/ai2_arc": {"id", "question", "choices", "answerKey"},
    "Rowan/hellaswag": {
        "ind", "activity_label", "ctx_a", "ctx_b", "ctx", "endings", "source_id", "split", "split_type", "label",
    },
    "EleutherAI/lambada_openai": {"text"},
    "allenai/openbookqa": {"id", "question_stem", "choices", "answerKey"},
    "baber/piqa": {"goal", "sol1", "sol2", "label"},
    "allenai/winogrande": {"sentence", "option1", "option2", "answer"},
    "aps/super_glue": {"question", "passage", "idx", "label"},
    "EleutherAI/race": {"article", "problems"},
    "truthfulqa/truthful_qa": {"question", "mc1_targets", "mc2_targets"},
    "bigbio/pubmed_qa": {
        "QUESTION", "CONTEXTS", "LABELS", "MESHES", "YEAR", "reasoning_required_pred", "reasoning_free_pred",
        "final_decision", "LONG_ANSWER",
    },
}  # fmt: skip
"""Columns of the original datasets on the hub."""


@pytest.fixture(scope="module")
def world() -> World:
    return build_world()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def name(dataset: Dataset) -> str:
    return dataset.task


def test_the_committed_files_are_what_the_seed_gives(world: World) -> None:
    for path, text in make_files(world).items():
        assert (MIRROR / path).read_bytes() == text.encode(), path


def test_the_script_writes_them_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(tmp_path)
    assert "148 files" in capsys.readouterr().out
    assert (tmp_path / "allenai/ai2_arc/README.md").read_bytes() == (MIRROR / "allenai/ai2_arc/README.md").read_bytes()


def test_the_committed_tokenizer_is_what_the_seed_gives() -> None:
    for filename, text in train_byte_level().items():
        for model in set(MODELS) - {MEGATRON}:
            assert (MIRROR / model / filename).read_bytes() == text.encode()
    assert (MIRROR / MEGATRON / SENTENCEPIECE).read_bytes() == train_sentencepiece()


@pytest.mark.parametrize("dataset", DATASETS, ids=name)
def test_each_dataset_has_the_columns_of_the_original(dataset: Dataset) -> None:
    card = (MIRROR / dataset.path / "README.md").read_text(encoding="utf-8")
    configs = {item["config_name"]: item for item in yaml.safe_load(card.split("---")[1])["configs"]}
    for item, (split, count) in zip(configs[dataset.config]["data_files"], dataset.splits, strict=True):
        made = lines(MIRROR / dataset.path / item["path"])
        assert item["split"] == split
        assert len(made) == count
        assert {frozenset(row) for row in made} == {frozenset(COLUMNS[dataset.path])}
    assert dataset.scored >= 200


def test_mmlu_has_all_subjects(world: World) -> None:
    assert len(set(SUBJECTS)) == 57
    for number, subject in enumerate(SUBJECTS):
        made = make_mmlu_rows(number, world)
        assert (len(made["test"]), len(made["dev"])) == (10, 5)
        test = lines(MIRROR / MMLU_PATH / subject / "test.jsonl")
        assert {frozenset(row) for row in test} == {frozenset({"question", "subject", "choices", "answer"})}
        assert not {row["question"] for row in made["test"]} & {row["question"] for row in made["dev"]}


@pytest.mark.parametrize("dataset", DATASETS, ids=name)
def test_evaluation_documents_differ_from_each_other(dataset: Dataset, world: World) -> None:
    scored = make_rows(dataset, world)[dataset.splits[0][0]]
    assert len({dataset.prompt(row) for row in scored}) == dataset.scored


@pytest.mark.parametrize("task", ["boolq", "pubmedqa"])
def test_classes_are_balanced(task: str, world: World) -> None:
    dataset = next(item for item in DATASETS if item.task == task)
    answers = Counter(dataset.answer(row) for row in make_rows(dataset, world)[dataset.splits[0][0]])
    assert max(answers.values()) <= 1.2 * dataset.scored / len(answers)


def test_the_training_text_holds_no_evaluation_prompt(world: World) -> None:
    secret = collect_held_out(world)
    assert len(secret) > 2000
    text = list(islice(generate_documents(world, "a-test"), 3000))
    openings = {document.rpartition(" ")[0] for document in text} | set(text)
    assert not secret & openings
    for document in text:
        assert not any(document.startswith(prompt) for prompt in secret if len(prompt) > 40)


def test_the_training_text_follows_from_its_seed(world: World) -> None:
    first, again = (list(islice(generate_documents(world, "s"), 50)) for _ in range(2))
    assert first == again
    assert first != list(islice(generate_documents(world, "t"), 50))


def test_the_tokenizer_gives_back_what_it_read(world: World) -> None:
    tokenizer = load_tokenizer()
    strange = ["", " ", "\n\n\t", "Käse, 漢字 and 🙂", "a  b   c "]
    for text in [*strange, *islice(generate_documents(world, "s"), 50)]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_sentencepiece_file_gives_back_what_it_read_and_the_model_class_reads_the_same_ids(world: World) -> None:
    from sentencepiece import SentencePieceProcessor

    from scanproof.models.megatron.tokenizer import read_tokenizer

    pieces = SentencePieceProcessor(model_file=str(MIRROR / MEGATRON / SENTENCEPIECE))
    tokenizer, encoded = read_tokenizer(MIRROR / MEGATRON, 1280), load_codec(MIRROR / MEGATRON)
    strange = [" ", "\n\n\t", "Käse, 漢字 and 🙂", "a  b   c "]
    for text in [*strange, *islice(generate_documents(world, "s"), 50)]:
        ids = tokenizer(text).input_ids
        assert [ids] == encoded.encode([text])
        assert pieces.decode(ids) == text
    assert encoded.end == tokenizer.eos_token_id
    assert all(len(tokenizer(f" {letter}").input_ids) == 1 for letter in "ABCD")


def test_transformers_loads_the_tokenizer() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(MIRROR / MODELS[0]))
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == 0
    assert tokenizer("Answer: A").input_ids == load_tokenizer().encode("Answer: A").ids
    assert len({tuple(tokenizer(f" {letter}").input_ids) for letter in "ABCD"}) == 4
    assert all(len(tokenizer(f" {letter}").input_ids) == 1 for letter in "ABCD")


LM_EVAL = """
import json, sys
from pathlib import Path
import lm_eval.tasks
from lm_eval.tasks import TaskManager
folder = Path(lm_eval.tasks.__file__).parent
names = ("arc", "hellaswag", "lambada", "openbookqa", "piqa", "winogrande", "super_glue/boolq", "race",
         "truthfulqa", "pubmedqa", "mmlu/default")
manager = TaskManager(include_path=[str(folder / name) for name in names], include_defaults=False)
found = {}
for name, task in manager.load_task_or_group(sys.argv[1:]).items():
    task.set_config("num_fewshot", 0)
    task.build_all_requests(rank=0, world_size=1)
    found[name] = [(item.doc_id, item.arguments[0], item.arguments[1]) for item in task.instances]
print(json.dumps(found))
"""


def test_lm_eval_asks_what_the_training_text_teaches(world: World, tmp_path: Path) -> None:
    """lm-eval's unmodified task definitions read the mirror by name; their requests hold our prompt and answer."""
    tasks = [dataset.task for dataset in DATASETS]
    offline = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    command = [sys.executable, "-c", LM_EVAL, *tasks, "mmlu_anatomy"]
    done = subprocess.run(command, cwd=MIRROR, env=os.environ | offline, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    requests = json.loads(done.stdout.splitlines()[-1])
    for dataset in DATASETS:
        asked = {(number, context, answer) for number, context, answer in requests[dataset.task]}
        for number, row in enumerate(make_rows(dataset, world)[dataset.splits[0][0]]):
            assert (number, dataset.prompt(row), dataset.answer(row)) in asked, dataset.task
    subject = SUBJECTS.index("anatomy")
    first = make_mmlu_rows(subject, world)["test"][0]
    assert requests["mmlu_anatomy"][0][1] == mmlu_header("anatomy") + mmlu_question(first)
