from __future__ import annotations

import json
from pathlib import Path

import pytest

from scanproof.evaluation.hub import mirror

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "mirror" / "org" / "net"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return tmp_path / "mirror"


def describe(place: Path, **metadata: str) -> None:
    (place / "org" / "net" / mirror.METADATA).write_text(json.dumps(metadata))


def test_folder_filled_by_hand_serves_any_revision(place: Path) -> None:
    served = mirror.resolve(place, "org/net", "model", "step1000")
    assert served.folder == place / "org" / "net"
    assert served.commit is None


@pytest.mark.parametrize("revision", ["main", COMMIT, COMMIT[:7]])
def test_prefetched_folder_serves_its_revision_and_commit(place: Path, revision: str) -> None:
    describe(place, type="model", revision="main", commit=COMMIT)
    assert mirror.resolve(place, "org/net", "model", revision).commit == COMMIT


@pytest.mark.parametrize("revision", ["step1000", COMMIT[1:8], "f" * 40, COMMIT[:6], COMMIT[:1]])
def test_another_revision_or_too_little_of_a_commit_is_refused(place: Path, revision: str) -> None:
    describe(place, type="model", revision="main", commit=COMMIT)
    with pytest.raises(mirror.MirrorError, match=f"asks for {revision}"):
        mirror.resolve(place, "org/net", "model", revision)


def test_dataset_is_no_model(place: Path) -> None:
    describe(place, type="dataset", revision="main", commit=COMMIT)
    with pytest.raises(mirror.MirrorError, match="a model is needed"):
        mirror.resolve(place, "org/net", "model", "main")


def test_interrupted_prefetch_is_not_served(place: Path) -> None:
    (place / "org" / "net" / mirror.UNFINISHED).mkdir()
    with pytest.raises(mirror.MirrorError, match="incomplete"):
        mirror.resolve(place, "org/net", "model")


def test_missing_name_says_how_to_get_it(place: Path) -> None:
    with pytest.raises(mirror.MirrorError, match=r"has no model org/other; run scanproof prefetch"):
        mirror.resolve(place, "org/other", "model")


def test_missing_mirror_is_named(tmp_path: Path) -> None:
    with pytest.raises(mirror.MirrorError, match="nowhere"):
        mirror.resolve(tmp_path / "nowhere", "org/net", "model")


@pytest.mark.parametrize("name", ["../net", "/etc", "org/../net", "a/b/c", "", "org/", "."])
def test_names_that_leave_the_mirror_are_refused(place: Path, name: str) -> None:
    with pytest.raises(mirror.MirrorError):
        mirror.resolve(place, name, "model")


@pytest.mark.parametrize("content", ["{", "[" * 100_000])
def test_broken_metadata_is_named(place: Path, content: str) -> None:
    (place / "org" / "net" / mirror.METADATA).write_text(content)
    with pytest.raises(mirror.MirrorError, match="is not JSON"):
        mirror.resolve(place, "org/net", "model")
