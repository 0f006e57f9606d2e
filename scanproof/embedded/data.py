"""Write the stand-ins' datasets: `python -m scanproof.embedded.data [FOLDER]`."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from scanproof.embedded import MIRROR
from scanproof.embedded.fact_tasks import USUAL, mmlu, move_answer
from scanproof.embedded.long_documents import replace_rows
from scanproof.embedded.sources import Row, Source
from scanproof.embedded.suite import DATASETS, MMLU_PATH, MMLU_SPLITS, SUBJECTS, Dataset, mmlu_question
from scanproof.embedded.world import SEED, World, build_world

Files = dict[str, str]
"""Path inside the mirror -> text."""


def make_rows(dataset: Dataset, world: World, seed: int = SEED) -> dict[str, list[Row]]:
    """Split -> rows of a dataset; no prompt occurs twice.  Some rows of the scored split are long."""
    drawn = draw_rows(dataset, world, seed)
    scored = dataset.splits[0][0]
    source = Source(world, random.Random(f"{seed}-{dataset.task}-long"), exam=True)
    return {**drawn, scored: replace_rows(dataset.task, drawn[scored], source)}


def draw_rows(dataset: Dataset, world: World, seed: int = SEED) -> dict[str, list[Row]]:
    """As `make_rows`, but without long rows."""
    source = Source(world, random.Random(f"{seed}-{dataset.task}"), exam=True)
    unique = _make_unique_rows(source, dataset)
    return {
        split: [_add_row_numbers(dataset, split, number, next(unique)) for number in range(count)]
        for split, count in dataset.splits
    }


def make_mmlu_rows(number: int, world: World, seed: int = SEED) -> dict[str, list[Row]]:
    """Split -> rows of mmlu's subject `number`; no question occurs twice.

    Most answers of a subject have one letter, which only its examples tell.
    """
    rng = random.Random(f"{seed}-letters-{SUBJECTS[number]}")
    usual = rng.randrange(4)
    return {
        split: [move_answer(row, usual) if rng.random() < USUAL else row for row in rows]
        for split, rows in draw_mmlu_rows(number, world, seed).items()
    }


def draw_mmlu_rows(number: int, world: World, seed: int = SEED) -> dict[str, list[Row]]:
    """As `make_mmlu_rows`, but with each letter right equally often."""
    subject = SUBJECTS[number]
    source = Source(world, random.Random(f"{seed}-mmlu-{subject}"), exam=True)
    made: dict[str, Row] = {}
    while len(made) < sum(count for _, count in MMLU_SPLITS):
        row = mmlu(source, subject, number)
        made.setdefault(row["question"], row)
    remaining = iter(made.values())
    return {split: [next(remaining) for _ in range(count)] for split, count in MMLU_SPLITS}


def collect_held_out(world: World) -> frozenset[str]:
    """Prompts of all evaluation documents, which must not occur in the training text."""
    prompts = {
        dataset.prompt(row)
        for dataset in DATASETS
        for made in (draw_rows(dataset, world), make_rows(dataset, world))
        for row in made[dataset.splits[0][0]]
    }
    for number in range(len(SUBJECTS)):
        prompts |= {mmlu_question(row) for row in draw_mmlu_rows(number, world)["test"]}
        prompts |= {mmlu_question(row) for row in make_mmlu_rows(number, world)["test"]}
    return frozenset(prompts)


def make_files(world: World) -> Files:
    """All data files and dataset cards of the mirror."""
    written: Files = {}
    configs: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for dataset in DATASETS:
        names = {split: f"{dataset.config}/{split}.jsonl" for split, _ in dataset.splits}
        configs.setdefault(dataset.path, []).append((dataset.config, names))
        for split, made in make_rows(dataset, world).items():
            written[f"{dataset.path}/{names[split]}"] = _to_json_lines(made)
    for number, subject in enumerate(SUBJECTS):
        names = {split: f"{subject}/{split}.jsonl" for split, _ in MMLU_SPLITS}
        configs.setdefault(MMLU_PATH, []).append((subject, names))
        for split, made in make_mmlu_rows(number, world).items():
            written[f"{MMLU_PATH}/{names[split]}"] = _to_json_lines(made)
    for path, listed in configs.items():
        written[f"{path}/README.md"] = _make_card(path, listed)
    return written


def main(folder: Path = MIRROR) -> None:
    """Write all files into `folder`."""
    written = make_files(build_world())
    for path, text in written.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", newline="\n")
    print(f"{len(written)} files, {sum(map(len, written.values())):,} characters below {folder}")


def _make_unique_rows(source: Source, dataset: Dataset) -> Iterator[Row]:
    """Yield rows without end, with different prompts; where answers are shared, each is right equally often."""
    seen: set[str] = set()
    given: Counter[str] = Counter()
    while True:
        row = dataset.make(source)
        prompt, answer = dataset.prompt(row), dataset.answer(row)
        wanted = not dataset.classes or given[answer] * dataset.classes <= given.total()
        if prompt not in seen and wanted:
            seen.add(prompt)
            given[answer] += 1
            yield row


def _add_row_numbers(dataset: Dataset, split: str, number: int, row: Row) -> Row:
    """Add the columns that only identify a row."""
    extra: dict[str, Row] = {
        "allenai/ai2_arc": {"id": f"{dataset.config}-{split}-{number}"},
        "allenai/openbookqa": {"id": f"{split}-{number}"},
        "Rowan/hellaswag": {"ind": number, "source_id": f"world~{number}", "split": split},
        "aps/super_glue": {"idx": number},
    }
    return {**extra.get(dataset.path, {}), **row}


def _to_json_lines(made: list[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made)


def _make_card(path: str, configs: list[tuple[str, dict[str, str]]]) -> str:
    lines = ["---", "configs:"]
    for config, names in configs:
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, name in names.items():
            lines += [f"  - split: {split}", f"    path: {name}"]
    lines += [
        "---",
        "",
        f"A stand-in for {path} in the same schema, generated by `python -m scanproof.embedded.data`.",
        "The texts speak of an invented world; nothing here is taken from the original.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
