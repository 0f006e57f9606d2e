"""Whatever a fingerprint names and triage can read is compared: what differs there is never said not to differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from scanproof.evaluation import store, task_files
from scanproof.evaluation.file_digests import FileDigests
from scanproof.evaluation.fingerprint import take_fingerprint
from scanproof.evaluation.imported import Imports
from scanproof.triage.checks import environment
from scanproof.triage.differences import between
from scanproof.triage.evidence import Evidence, Side
from scanproof.triage.finding import FindingState
from scanproof.triage.read_answers import read_fingerprint_parts
from tests.support import small_mirror as small

NOT_READ_HERE = {"job", "engine"}
"""What the run itself says of these is compared."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The parts of a real fingerprint, with a file in each section that is empty here."""
    folder, imports = tmp_path_factory.mktemp("fingerprint"), Imports()
    index = imports.task_index(folder)
    assert index is not None
    with FileDigests(folder / "hashes.sqlite") as digests:
        taken = take_fingerprint(
            small.JOB, mirror_folder=small.build(folder / "mirror"), index=index, digests=digests, imports=imports,
            selection=task_files.select(index, small.JOB.tasks), session="s",
        )  # fmt: skip
    filled = {"files": {"zigzag_output": "1"}, "variables": {"OMP_NUM_THREADS": "1"}, "startup": {"/x.pth": "1"}}
    return {**taken.parts, **filled, "imported": {"/site/tiktoken/core.py": "1"}, "a section of tomorrow": {"x": "1"}}


def spoil(value: Any) -> Any:
    """The value with its first leaf changed."""
    if not isinstance(value, Mapping):
        return "changed"
    assert value
    first = next((name for name in value if value[name] is not None), next(iter(value)))
    return {**value, first: spoil(value[first])}


def test_whatever_differs_in_a_fingerprint_is_a_difference(parts: dict[str, Any]) -> None:
    for section in parts.keys() - NOT_READ_HERE:
        now = Side(name="now", parts={**parts, section: spoil(parts[section])})
        before = Side(name="the good run", parts=parts)
        assert between(before, now), section
        assert not ruled_out(before, now), section
    assert between(before, before) == []
    assert ruled_out(before, before)


def ruled_out(before: Side, now: Side) -> bool:
    """Whether triage says that nothing differs."""
    gathered = Evidence(
        run="r", number="n", outcome="CHANGED", because="b", metric="acc", leaves=(), store="s", margin=0.0,
        before=before, now=now,
    )  # fmt: skip
    return any(found.state is FindingState.RULED_OUT for found in environment.check(gathered))


@pytest.mark.parametrize(
    ("name", "said"), [("transformers", "transformers: changed"), ("mamba_ssm", "mamba-ssm: changed")]
)
def test_a_package_edited_in_place_is_a_suspect(parts: dict[str, Any], name: str, said: str) -> None:
    edited = {**parts, "imports": {**parts["imports"], name: "edited"}}
    (difference,) = between(Side(name="before", parts=parts), Side(name="now", parts=edited))
    assert (difference.group, str(difference)) == ("computes", said)


def test_an_lm_eval_edited_in_place_is_another_harness(parts: dict[str, Any]) -> None:
    edited = {**parts, "imports": {**parts["imports"], "lm_eval": "edited"}}
    (difference,) = between(Side(name="before", parts=parts), Side(name="now", parts=edited))
    assert (difference.group, str(difference)) == ("harness", "lm-eval: changed")


def test_a_package_of_another_version_is_said_once(parts: dict[str, Any]) -> None:
    packages = {**parts["packages"], "transformers": {"version": "9.9", "record": "r"}}
    now = {**parts, "packages": packages, "imports": {**parts["imports"], "transformers": "other"}}
    (difference,) = between(Side(name="before", parts=parts), Side(name="now", parts=now))
    assert str(difference).endswith("-> 9.9")


def test_parts_of_before_these_sections_say_nothing_of_them(parts: dict[str, Any]) -> None:
    older = {name: section for name, section in parts.items() if name not in ("imports", "startup", "imported")}
    assert between(Side(name="before", parts=older), Side(name="now", parts=parts)) == []


def test_what_a_worker_imported_is_read_with_the_parts_and_may_be_lacking(tmp_path: Path) -> None:
    folder = store.folder_of(tmp_path, "k" * 64)
    folder.mkdir(parents=True)
    (folder / "fingerprint.json").write_text(json.dumps({"parts": {"code": {}}}))
    assert read_fingerprint_parts(tmp_path, "k" * 64) == {"code": {}}
    (folder / store.IMPORTED).write_text(json.dumps({"files": {"/x.py": "1"}, "places": {}}))
    assert read_fingerprint_parts(tmp_path, "k" * 64) == {"code": {}, "imported": {"/x.py": "1"}}
    (folder / store.IMPORTED).write_text("[]")
    assert read_fingerprint_parts(tmp_path, "k" * 64) == {"code": {}}
