from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from pathlib import Path

import pytest

from scanproof import files
from scanproof.evaluation import store

KEY = "ab" + "0" * 62
NOTHING: dict[str, dict[str, str]] = {"files": {}, "places": {}}
"""What a worker has imported that imported nothing."""


def attempt(root: Path, value: float = 0.5) -> Path:
    """The files that a finished worker leaves."""
    folder = store.new_attempt(root)
    (folder / "samples").mkdir()
    (folder / "samples" / "arc_easy.jsonl").write_text('{"doc_id": 0}\n')
    (folder / "results.json").write_text(json.dumps({"measurements": [value]}))
    (folder / "environment.json").write_text("{}")
    return folder


def add(root: Path, session: str = "first", value: float = 0.5) -> store.Entry:
    documents: dict[str, object] = {"job.json": {}, "fingerprint.json": {}, store.IMPORTED: NOTHING}
    return store.add(root, KEY, attempt(root, value), session=session, documents=documents)


def test_what_was_added_is_read_back(tmp_path: Path) -> None:
    add(tmp_path, session="night-1")
    entry = store.read(tmp_path, KEY)
    assert entry is not None
    assert entry.results == {"measurements": [0.5]}
    assert entry.session == "night-1"
    assert (entry.samples / "arc_easy.jsonl").is_file()


def test_unknown_key_is_none(tmp_path: Path) -> None:
    assert store.read(tmp_path, KEY) is None


def test_later_entry_replaces_the_earlier_and_leaves_no_debris(tmp_path: Path) -> None:
    add(tmp_path, value=0.5)
    add(tmp_path, session="second", value=0.6)
    entry = store.read(tmp_path, KEY)
    assert entry is not None
    assert entry.results == {"measurements": [0.6]}
    assert list((tmp_path / "attempts").iterdir()) == []


@pytest.mark.parametrize("name", ["results.json", "samples/arc_easy.jsonl", "environment.json", "checksums.json"])
def test_changed_byte_anywhere_is_damage_and_is_named(tmp_path: Path, name: str) -> None:
    path = add(tmp_path).folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(store.DamagedEntry, match=KEY):
        store.read(tmp_path, KEY)


@pytest.mark.parametrize("name", ["results.json", "samples/arc_easy.jsonl", "checksums.json"])
def test_missing_file_is_damage(tmp_path: Path, name: str) -> None:
    (add(tmp_path).folder / name).unlink()
    with pytest.raises(store.DamagedEntry, match=name):
        store.read(tmp_path, KEY)


@pytest.mark.parametrize("name", ["extra.json", "samples/piqa.jsonl", ".hidden"])
def test_a_file_that_nobody_stored_is_damage_and_is_named(tmp_path: Path, name: str) -> None:
    (add(tmp_path).folder / name).touch()
    with pytest.raises(store.DamagedEntry, match=re.escape(name)):
        store.read(tmp_path, KEY)


@pytest.mark.parametrize("name", store.REQUIRED)
def test_an_entry_is_damaged_without_a_required_file_even_where_its_checksums_agree(tmp_path: Path, name: str) -> None:
    folder = add(tmp_path).folder
    (folder / name).unlink()
    path = folder / store.CHECKSUMS
    checksums = json.loads(path.read_bytes())
    del checksums[name]
    path.write_text(json.dumps(checksums))
    with pytest.raises(store.DamagedEntry, match=re.escape(name)):
        store.read(tmp_path, KEY)


def test_damaged_entry_is_set_aside_not_deleted(tmp_path: Path) -> None:
    add(tmp_path)
    moved = store.set_aside(tmp_path, KEY)
    assert (moved / "results.json").is_file()
    assert store.read(tmp_path, KEY) is None


def test_failed_attempts_of_one_job_stay_apart(tmp_path: Path) -> None:
    kept = {store.keep_failure(tmp_path, "002 a/b", attempt(tmp_path)) for _ in range(3)}
    assert len(kept) == 3
    assert all(folder.parent == tmp_path / "failed" for folder in kept)


def test_lock_excludes_another_holder(tmp_path: Path) -> None:
    with store.lock(tmp_path, KEY), pytest.raises(TimeoutError):
        store.lock(tmp_path, KEY).acquire(timeout=0.1)


def test_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    files.write_atomically(path, b"old")
    with pytest.raises(TypeError):
        files.write_atomically(path, "text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_equal_questions_of_two_entries_are_one_file(tmp_path: Path) -> None:
    entries = []
    for key in (KEY, KEY[::-1]):
        folder = attempt(tmp_path)
        (folder / "samples" / f"arc_easy{store.TEXTS}").write_bytes(b"the same questions")
        documents: dict[str, object] = {"job.json": {}, "fingerprint.json": {}, store.IMPORTED: NOTHING}
        entries.append(store.add(tmp_path, key, folder, session="first", documents=documents))
    files = [entry.samples / f"arc_easy{store.TEXTS}" for entry in entries]
    assert files[0].samefile(files[1])
    assert {path.name for path in entries[0].samples.iterdir()} == {"arc_easy.jsonl", f"arc_easy{store.TEXTS}"}


def test_a_damaged_shared_file_of_questions_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    folder = attempt(tmp_path)
    questions = folder / "samples" / f"arc_easy{store.TEXTS}"
    questions.write_bytes(b"questions")
    digest = hashlib.sha256(b"questions").hexdigest()
    (tmp_path / "texts" / f"{digest}{store.TEXTS}").write_bytes(b"damaged")
    documents: dict[str, object] = {"job.json": {}, "fingerprint.json": {}, store.IMPORTED: NOTHING}
    entry = store.add(tmp_path, KEY, folder, session="first", documents=documents)
    shared = tmp_path / "texts" / f"{digest}{store.TEXTS}"
    assert (entry.samples / f"arc_easy{store.TEXTS}").read_bytes() == shared.read_bytes() == b"questions"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *itertools.product(
            ["checksums.json", "entry.json", "results.json", "environment.json", store.IMPORTED],
            ["[]", '"x"', "3", "null", "{", "[" * 100_000],
        ),
        ("entry.json", '{"session": "a"}'),
        ("entry.json", '{"session": "a", "finished": 1e300}'),
        (store.IMPORTED, '{"files": 3, "places": {}}'),
    ],
)
def test_an_entry_that_is_not_as_it_is_written_is_damaged(tmp_path: Path, name: str, content: str) -> None:
    folder = add(tmp_path).folder
    (folder / name).write_text(content)
    if name != store.CHECKSUMS:
        (folder / store.CHECKSUMS).write_text(json.dumps(store._checksums(folder)))
    with pytest.raises(store.DamagedEntry, match=KEY):
        store.read(tmp_path, KEY)


def test_a_pipe_in_an_entry_is_damage_and_nobody_waits(tmp_path: Path) -> None:
    folder = add(tmp_path).folder
    for name in ("results.json", store.CHECKSUMS):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(store.DamagedEntry, match=KEY):
            store.read(tmp_path, KEY)


def test_a_file_in_place_of_an_entry_is_replaced(tmp_path: Path) -> None:
    folder = store.folder_of(tmp_path, KEY)
    folder.parent.mkdir(parents=True)
    folder.write_text("no entry")
    assert store.read(tmp_path, KEY) is None
    assert add(tmp_path).folder == folder
