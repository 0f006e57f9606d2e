from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scanproof.evaluation.hub import download, mirror, prefetch
from scanproof.evaluation.hub.download import PrefetchError
from scanproof.evaluation.hub.prefetch import DownloadProgress, plan_prefetch, run_prefetch
from scanproof.models.checkpoint_files import is_wanted
from tests.support import small_hub
from tests.support import small_mirror as small

WEIGHTS = bytes(range(256)) * 400


@pytest.fixture
def hub() -> Iterator[small_hub.Hub]:
    offered = small_hub.Hub(
        models={
            small.MODEL: {
                "config.json": b"{}",
                "model.safetensors": WEIGHTS,
                "pytorch_model.bin": b"p" * 50_000,
                "README.md": b"# card",
                "tokenizer.json": b"[]",
            }
        },
        datasets={
            small.DATASET: {
                "README.md": b"---\n---\n",
                "ARC-Easy/test.parquet": b"d" * 20_000,
                "load.py": b"x",
            }
        },
    )
    with small_hub.running(offered):
        yield offered


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))


def ignore(_: DownloadProgress) -> None:
    return


def test_plan_names_sizes_and_takes_one_weight_format(hub: small_hub.Hub) -> None:
    plan = plan_prefetch([small.JOB], hub.endpoint)
    files = {repository.name: [file.path for file in repository.files] for repository in plan.repositories}
    assert files == {
        small.MODEL: ["config.json", "model.safetensors", "tokenizer.json"],
        small.DATASET: ["ARC-Easy/test.parquet", "README.md"],
    }
    assert plan.bytes == 2 + len(WEIGHTS) + 2 + 20_000 + 8
    assert {repository.commit for repository in plan.repositories} == {small_hub.COMMIT}
    assert hub.served == {}


def test_filled_mirror_serves_the_bytes_of_the_hub(hub: small_hub.Hub, tmp_path: Path) -> None:
    told: list[DownloadProgress] = []
    plan = plan_prefetch([small.JOB], hub.endpoint)
    run_prefetch(plan, tmp_path, told.append)
    served = mirror.resolve(tmp_path, small.MODEL, "model", "main")
    assert served.commit == small_hub.COMMIT
    assert (served.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert mirror.resolve(tmp_path, small.DATASET, "dataset").commit == small_hub.COMMIT
    metadata = json.loads((served.folder / mirror.METADATA).read_text())
    assert {file["path"]: file["size"] for file in metadata["files"]}["model.safetensors"] == len(WEIGHTS)
    assert told[-1].done == told[-1].total == plan.bytes
    assert [state.done for state in told] == sorted(state.done for state in told)


def test_second_run_downloads_nothing(hub: small_hub.Hub, tmp_path: Path) -> None:
    plan = plan_prefetch([small.JOB], hub.endpoint)
    run_prefetch(plan, tmp_path, ignore)
    before = dict(hub.served)
    run_prefetch(plan_prefetch([small.JOB], hub.endpoint), tmp_path, ignore)
    assert hub.served == before


class Interrupted(BaseException):
    """Raised in place of KeyboardInterrupt."""


def interrupt(hub: small_hub.Hub, plan: prefetch.DownloadPlan, folder: Path) -> int:
    """Stop a download in the middle of the weights; returns how many bytes had arrived."""

    def stop(state: DownloadProgress) -> None:
        if state.file == "model.safetensors":
            raise Interrupted

    hub.cut_after["model.safetensors"] = 60_000
    with pytest.raises(Interrupted):
        run_prefetch(plan, folder, stop)
    hub.cut_after.clear()
    hub.served.clear()
    (unfinished,) = (folder / small.MODEL / mirror.UNFINISHED).iterdir()
    return unfinished.stat().st_size


def test_interrupted_download_resumes_where_it_stopped(hub: small_hub.Hub, tmp_path: Path) -> None:
    plan = plan_prefetch([small.JOB], hub.endpoint)
    first = interrupt(hub, plan, tmp_path)
    assert 0 < first <= 60_000
    with pytest.raises(mirror.MirrorError, match="incomplete"):
        mirror.resolve(tmp_path, small.MODEL, "model", "main")
    run_prefetch(plan, tmp_path, ignore)
    assert hub.served["model.safetensors"] == len(WEIGHTS) - first
    folder = mirror.resolve(tmp_path, small.MODEL, "model", "main").folder
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_connection_that_breaks_in_the_middle_is_taken_up_again(hub: small_hub.Hub, tmp_path: Path) -> None:
    hub.cut_after["model.safetensors"] = 40_000
    run_prefetch(plan_prefetch([small.JOB], hub.endpoint), tmp_path, ignore)
    assert (tmp_path / small.MODEL / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.served["model.safetensors"] == len(WEIGHTS)


def test_server_without_ranges_starts_over_and_still_gives_the_file(hub: small_hub.Hub, tmp_path: Path) -> None:
    plan = plan_prefetch([small.JOB], hub.endpoint)
    interrupt(hub, plan, tmp_path)
    hub.ignores_ranges = True
    run_prefetch(plan, tmp_path, ignore)
    assert hub.served["model.safetensors"] == len(WEIGHTS)
    assert (tmp_path / small.MODEL / "model.safetensors").read_bytes() == WEIGHTS


def test_hub_in_trouble_keeps_what_has_arrived(hub: small_hub.Hub, tmp_path: Path) -> None:
    plan = plan_prefetch([small.JOB], hub.endpoint)
    hub.refused.add("tokenizer.json")
    with pytest.raises(PrefetchError, match=r"tokenizer\.json .*run it again to resume"):
        run_prefetch(plan, tmp_path, ignore)
    hub.refused.clear()
    hub.served.clear()
    run_prefetch(plan, tmp_path, ignore)
    assert set(hub.served) == {"tokenizer.json"}


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_bytes_that_do_not_match_the_digest_are_not_kept(hub: small_hub.Hub, tmp_path: Path, file: str) -> None:
    hub.lies_about.add(file)
    with pytest.raises(PrefetchError, match="not those the hub states"):
        run_prefetch(plan_prefetch([small.JOB], hub.endpoint), tmp_path, ignore)
    assert not (tmp_path / small.MODEL / file).exists()


def test_damaged_file_in_the_mirror_is_fetched_again(hub: small_hub.Hub, tmp_path: Path) -> None:
    plan = plan_prefetch([small.JOB], hub.endpoint)
    run_prefetch(plan, tmp_path, ignore)
    path = tmp_path / small.MODEL / "model.safetensors"
    path.write_bytes(WEIGHTS[:-1] + b"?")
    hub.served.clear()
    run_prefetch(plan, tmp_path, ignore)
    assert path.read_bytes() == WEIGHTS
    assert set(hub.served) == {"model.safetensors"}


def test_gated_repository_says_what_to_do(hub: small_hub.Hub) -> None:
    hub.gated.add(small.MODEL)
    with pytest.raises(PrefetchError, match=rf"{small.MODEL}.* is gated: .*HF_TOKEN"):
        plan_prefetch([small.JOB], hub.endpoint)


def test_unknown_repository_is_named(hub: small_hub.Hub) -> None:
    with pytest.raises(PrefetchError, match=r"the model org/none .*does not exist"):
        plan_prefetch([replace(small.JOB, pretrained="org/none")], hub.endpoint)


def test_unknown_revision_is_named(hub: small_hub.Hub) -> None:
    with pytest.raises(PrefetchError, match=f"{small.MODEL}.* has no revision step7"):
        plan_prefetch([replace(small.JOB, revision="step7")], hub.endpoint)


def test_unreachable_hub_is_named() -> None:
    with small_hub.unreachable() as address, pytest.raises(PrefetchError, match=f"{address} cannot be reached"):
        plan_prefetch([small.JOB], address)


def test_too_little_space_is_said_before_the_download(
    hub: small_hub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(PrefetchError, match=r"0\.00 GB free"):
        run_prefetch(plan_prefetch([small.JOB], hub.endpoint), tmp_path, ignore)
    assert hub.served == {}


def test_a_tokenizer_of_another_model_comes_without_its_weights(hub: small_hub.Hub) -> None:
    files = {
        "tokenizer.json": b"[]",
        "model-00001-of-00046.safetensors": b"w" * 99_999,
        "a.index.json": b"{}",
    }
    hub.models["EleutherAI/gpt-neox-20b"] = files
    hub.models["state-spaces/mamba-130m"] = {"config.json": b"{}", "pytorch_model.bin": b"p" * 30_000}
    job = replace(small.JOB, model="mamba_ssm", pretrained="state-spaces/mamba-130m")
    planned = {r.name: [f.path for f in r.files] for r in plan_prefetch([job], hub.endpoint).repositories}
    assert planned["EleutherAI/gpt-neox-20b"] == ["tokenizer.json"]
    assert planned["state-spaces/mamba-130m"] == ["config.json", "pytorch_model.bin"]


def test_two_revisions_of_one_model_need_two_mirrors() -> None:
    jobs = [small.JOB, replace(small.JOB, revision="step7")]
    with pytest.raises(PrefetchError, match="fill two mirrors"):
        prefetch.list_repositories(jobs)


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("model.safetensors", True),
        ("pytorch_model-00001-of-00002.bin", False),
        ("pytorch_model.bin.index.json", False),
        ("original/consolidated.00.pth", False),
        ("onnx/model.onnx", False),
        ("flax_model.msgpack", False),
        ("optimizer.pt", False),
        ("config.json", True),
        ("mamba_config.json", True),
        ("tokenizer.model", True),
    ],
)
def test_one_weight_format_is_enough(file: str, wanted: bool) -> None:
    assert is_wanted(file, ["model.safetensors", file], "model") is wanted


def test_pickled_weights_are_wanted_where_there_are_no_others() -> None:
    files = ["release/mp_rank_00/model_optim_rng.pt", "pytorch_model.bin"]
    assert all(is_wanted(file, files, "model") for file in files)
