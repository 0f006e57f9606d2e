from __future__ import annotations

import os
from collections import UserDict
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanproof.evaluation import task_files
from scanproof.evaluation.file_digests import FileDigests
from scanproof.evaluation.fingerprint import (
    Fingerprint,
    environment_variables,
    job_fields,
    list_changes,
    list_checkpoints,
    take_fingerprint,
)
from scanproof.evaluation.imported import Imports
from scanproof.numbers.values import EvalJob
from scanproof.numbers.verdict.engines import EngineName
from tests.support import small_mirror as small

OLD = 1_000_000_000
NAMES = st.text("abcxyz-/1", min_size=1, max_size=6)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "model": NAMES,
    "pretrained": NAMES,
    "revision": NAMES,
    "model_args": st.lists(st.tuples(NAMES, st.one_of(NAMES, st.integers(), st.booleans())), max_size=2).map(tuple),
    "dtype": st.sampled_from(["float16", "bfloat16", "float32", "float64"]),
    "device": st.sampled_from(["cpu", "cuda", "cuda:1"]),
    "tasks": st.sets(NAMES, min_size=1, max_size=3).map(lambda names: tuple(sorted(names))),
    "num_fewshot": st.integers(0, 5),
    "batch_size": st.integers(1, 256),
    "max_length": st.none() | st.integers(1, 4096),
    "limit": st.none() | st.integers(1, 100),
    "seed": st.integers(0, 9999),
    "kernels": st.sets(NAMES, max_size=2).map(lambda names: tuple(sorted(names))),
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> task_files.TaskFiles:
    package = Imports().folder("lm_eval")
    assert package is not None
    return task_files.load_index(package / "tasks", tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def imports() -> Imports:
    return Imports()


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    folder = small.build(tmp_path / "mirror")
    for path in folder.rglob("*"):
        os.utime(path, (OLD, OLD))
    return folder


@pytest.fixture
def take(mirror: Path, index: task_files.TaskFiles, tmp_path: Path, imports: Imports) -> Callable[..., Fingerprint]:
    def take(
        job: EvalJob = small.JOB, folder: Path | None = mirror, session: str = "s", engine: EngineName = "plain"
    ) -> Fingerprint:
        with FileDigests(tmp_path / "hashes.sqlite") as digests:
            return take_fingerprint(
                job,
                mirror_folder=folder,
                selection=task_files.select(index, job.tasks),
                index=index,
                digests=digests,
                imports=imports,
                session=session,
                engine=engine,
            )

    return take


def test_same_state_same_key_in_every_session(take: Callable[..., Fingerprint]) -> None:
    assert take().key == take(session="other").key


def test_each_engine_has_a_key_and_plain_does_not_depend_on_the_code_of_the_other(
    take: Callable[..., Fingerprint],
) -> None:
    plain, shared = take(), take(engine="shared")
    assert plain.key != shared.key
    differ = list_changes(plain.parts, shared.parts)
    assert differ == ["code / scanproof/scoring: new", "engine: plain -> shared"]


def test_every_field_of_a_job_is_drawn_below() -> None:
    assert set(FIELDS) == {field.name for field in fields(EvalJob)} - {
        "name", "suite", "size", "needs_remote_code", "trust_remote_code",
    }  # fmt: skip


@given(data=st.data(), field=st.sampled_from(sorted(FIELDS)))
def test_a_changed_field_changes_what_is_hashed(data: st.DataObject, field: str) -> None:
    one, other = (data.draw(FIELDS[field]) for _ in range(2))
    same = job_fields(replace(small.JOB, **{field: one})) == job_fields(replace(small.JOB, **{field: other}))
    typed = [[(n, type(v), v) for n, v in x] if field == "model_args" else x for x in (one, other)]
    assert same == (typed[0] == typed[1])


def test_one_and_true_are_different_arguments() -> None:
    assert job_fields(replace(small.JOB, model_args=(("x", 1),))) != job_fields(
        replace(small.JOB, model_args=(("x", True),))
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dtype", "float64"),
        ("num_fewshot", 1),
        ("batch_size", 8),
        ("limit", 3),
        ("tasks", ("arc_challenge",)),
    ],
)
def test_a_changed_field_changes_the_key(take: Callable[..., Fingerprint], field: str, value: object) -> None:
    assert take(replace(small.JOB, **{field: value})).key != take().key  # type: ignore[arg-type]


def test_name_and_reason_do_not_count_but_remote_code_does(take: Callable[..., Fingerprint]) -> None:
    allowed = take(replace(small.JOB, trust_remote_code="needs its own rotary"))
    assert take(replace(small.JOB, name="another")).key == take().key
    assert take(replace(small.JOB, trust_remote_code="said otherwise")).key == allowed.key
    assert allowed.key != take().key


@pytest.mark.parametrize(
    "path",
    [f"{small.MODEL}/model.safetensors", f"{small.MODEL}/tokenizer.json", f"{small.DATASET}/README.md"],
)
def test_one_changed_byte_is_seen_even_with_the_old_time(
    take: Callable[..., Fingerprint], mirror: Path, path: str
) -> None:
    before = take()
    content = bytearray((mirror / path).read_bytes())
    content[-1] ^= 1
    (mirror / path).write_bytes(content)
    os.utime(mirror / path, (OLD, OLD))
    after = take()
    assert after.key != before.key
    (change,) = list_changes(before.parts, after.parts)
    assert change.endswith(f"{Path(path).name}: changed")


@pytest.mark.parametrize("name", ["MKL_CBWR", "FLA_USE_FAST_OPS", "GLIBC_TUNABLES"])
def test_environment_variables_that_move_floats_count(
    take: Callable[..., Fingerprint], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = take()
    monkeypatch.setenv(name, "COMPATIBLE")
    after = take()
    assert list_changes(before.parts, after.parts) == [f"variables / {name}: new"]
    assert after.key != before.key


def test_a_model_card_does_not_count(take: Callable[..., Fingerprint], mirror: Path) -> None:
    before = take()
    (mirror / small.MODEL / "README.md").write_text("about")
    assert take().key == before.key


def test_definition_of_the_task_and_code_are_part_of_it(take: Callable[..., Fingerprint]) -> None:
    parts = take().parts
    assert "arc/arc_easy.yaml" in parts["tasks"]
    assert not any("hellaswag" in path for path in parts["tasks"])
    assert parts["imports"]["lm_eval"]
    assert parts["imports"]["torch"]
    assert parts["code"]["scanproof/evaluation/worker"]["run.py"]
    assert parts["packages"]["torch"]["version"]


def test_included_templates_are_part_of_it(take: Callable[..., Fingerprint], mirror: Path) -> None:
    (mirror / "cais" / "mmlu").mkdir(parents=True)
    (mirror / "cais" / "mmlu" / "x").touch()
    tasks = take(replace(small.JOB, tasks=("mmlu_stem",))).parts["tasks"]
    assert "mmlu/default/_default_template_yaml" in tasks


def test_without_a_mirror_a_commit_identifies_and_a_branch_holds_for_one_session(
    take: Callable[..., Fingerprint],
) -> None:
    branch = take(folder=None)
    assert branch.unknown == (f"commit of the model {small.MODEL}", f"commit of the dataset {small.DATASET}")
    assert take(folder=None, session="other").key != branch.key
    assert take(folder=None).key == branch.key
    commit = take(replace(small.JOB, revision="a" * 40), folder=None)
    assert commit.unknown == (f"commit of the dataset {small.DATASET}",)


def test_cuda_without_a_gpu_cannot_be_reused_later(
    take: Callable[..., Fingerprint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert "GPU" in take(replace(small.JOB, device="cuda")).unknown


def test_mamba_needs_the_tokenizer_that_lm_eval_reads_by_default(mirror: Path) -> None:
    job = replace(small.JOB, model="mamba_ssm", pretrained="state-spaces/mamba-130m")
    assert list_checkpoints(job, None) == (
        ("state-spaces/mamba-130m", "main"),
        ("EleutherAI/gpt-neox-20b", "main"),
    )
    named = replace(job, model_args=(("tokenizer", "other/tokens"),))
    assert list_checkpoints(named, None)[1] == ("other/tokens", "main")
    assert list_checkpoints(replace(job, pretrained=small.MODEL), mirror) == ((small.MODEL, "main"),)


def test_a_folder_that_an_argument_names_counts(take: Callable[..., Fingerprint], tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "tokens.txt").write_text("a")
    job = replace(small.JOB, model_args=(("vocabulary", str(tmp_path / "given")),))
    before = take(job)
    (tmp_path / "given" / "tokens.txt").write_text("b")
    assert list_changes(before.parts, take(job).parts) == ["files / vocabulary / tokens.txt: changed"]


def test_changes_name_what_appeared_vanished_and_changed() -> None:
    old = {"a": {"x": 1, "y": 2}, "b": 1}
    new = {"a": {"x": 1, "y": 3, "z": 4}}
    assert list_changes(old, new) == ["a / y: 2 -> 3", "a / z: new", "b: gone"]
    assert list_changes(old, old) == []


def test_a_variable_that_another_thread_takes_away_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest removes PYTEST_CURRENT_TEST at the end of each test, while jobs on threads read the environment."""

    class Fleeting(UserDict[str, str]):
        def __iter__(self) -> Iterator[str]:
            yield "GONE_BY_NOW"
            yield from super().__iter__()

    before = dict(os.environ)
    with monkeypatch.context() as patched:
        patched.setattr(os, "environ", Fleeting(before))
        with pytest.raises(KeyError):
            dict(os.environ)
        found = environment_variables()
    assert found == before


def test_a_name_of_own_code_that_does_not_exist_is_refused(
    monkeypatch: pytest.MonkeyPatch, take: Callable[..., Fingerprint]
) -> None:
    """With a misspelt name, the key would not depend on code that can change a number."""
    monkeypatch.setattr("scanproof.evaluation.fingerprint.OWN_CODE", ("models", "evaluation/workers"))
    with pytest.raises(FileNotFoundError, match="evaluation/workers is named in OWN_CODE"):
        take()
