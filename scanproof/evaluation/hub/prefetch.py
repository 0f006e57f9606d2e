"""Fill a mirror from the hub: list what is needed with its size, then download it; a download can be resumed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from scanproof import files
from scanproof.evaluation import fingerprint, task_files
from scanproof.evaluation.hub import mirror
from scanproof.evaluation.hub.download import PrefetchError, RemoteFile, explain_error, fetch_file, is_intact, size_of
from scanproof.evaluation.imported import Imports
from scanproof.models import checkpoint_files
from scanproof.models.checkpoint_files import is_script, is_wanted
from scanproof.numbers.values import EvalJob


@dataclass(frozen=True, kw_only=True)
class RepositoryPlan:
    """The files that are taken from one repository."""

    name: str
    kind: checkpoint_files.RepoType
    revision: str
    """Revision that was requested."""
    commit: str
    """Commit that the hub resolved it to."""
    files: tuple[RemoteFile, ...]
    is_script: bool = False
    """A dataset without data: a script of the repository would fetch them from elsewhere."""

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True, kw_only=True)
class DownloadPlan:
    """All repositories that a set of jobs needs."""

    endpoint: str
    repositories: tuple[RepositoryPlan, ...]
    scripts: tuple[str, ...] = ()
    """Datasets that are not fetched: their repositories hold a script, which nothing here runs, and no data."""

    @property
    def bytes(self) -> int:
        return sum(repository.bytes for repository in self.repositories)


@dataclass(frozen=True)
class DownloadProgress:
    """How far a download has come."""

    repository: str
    file: str
    done: int
    """Bytes of the whole plan that are in the mirror."""
    total: int
    """Bytes of the whole plan."""


def plan_prefetch(
    jobs: Iterable[EvalJob], endpoint: str | None = None, datasets: Sequence[str] | None = None
) -> DownloadPlan:
    """List what the jobs need from the hub, with sizes; nothing is downloaded.

    Args:
        jobs: the jobs.
        endpoint: address of the hub; by default that of the hub library (`HF_ENDPOINT`).
        datasets: names of datasets; only these are listed, as far as the jobs need them.  None lists everything.

    Raises:
        PrefetchError: a repository cannot be read, or is needed at two revisions.
        task_files.UnknownTask: lm-eval does not define a task.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint)
    planned = [
        _plan_repository(api, name, kind, revision, weights=weights)
        for (name, kind, revision), weights in sorted(list_repositories(jobs).items())
        if datasets is None or (kind == "dataset" and name in datasets)
    ]
    return DownloadPlan(
        endpoint=api.endpoint,
        repositories=tuple(repository for repository in planned if not repository.is_script),
        scripts=tuple(repository.name for repository in planned if repository.is_script),
    )


def list_repositories(jobs: Iterable[EvalJob]) -> dict[tuple[str, checkpoint_files.RepoType, str], bool]:
    """The repositories that the jobs need: (name, kind, revision) -> whether weights are needed, or only a tokenizer.

    Raises:
        PrefetchError: a repository is needed at two revisions; a mirror holds one folder per name.
    """
    package = Imports().folder("lm_eval")
    if package is None:
        raise PrefetchError("lm-eval is not installed here; its task definitions say which datasets are needed")
    index = task_files.build_index(package / "tasks")
    repositories: dict[tuple[str, checkpoint_files.RepoType, str], bool] = {}
    for job in jobs:
        for name, revision in fingerprint.list_checkpoints(job, None):
            key: tuple[str, checkpoint_files.RepoType, str] = (name, "model", revision)
            repositories[key] = repositories.get(key, False) or name == job.pretrained
        for name in task_files.select(index, job.tasks).datasets:
            repositories[name, "dataset", "main"] = True
    revisions: dict[str, str] = {}
    for name, kind, revision in repositories:
        if revisions.setdefault(name, revision) != revision:
            raise PrefetchError(
                f"the {kind} {name} is needed at revisions {revisions[name]} and {revision};"
                " a mirror holds one folder per name: fill two mirrors"
            )
    return repositories


def run_prefetch(plan: DownloadPlan, folder: Path, progress: Callable[[DownloadProgress], None]) -> None:
    """Download a plan into a mirror; continues where an earlier call stopped, and skips files that are complete.

    Each file's size and digest are checked.

    Raises:
        PrefetchError: the disk is too small, or a download failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_space(plan, folder)
    done = 0
    for repository in plan.repositories:
        report = partial(_report, progress, repository.name, plan.bytes, done)
        _fetch_repository(plan.endpoint, repository, folder / repository.name, report)
        done += repository.bytes


def _report(
    progress: Callable[[DownloadProgress], None], name: str, total: int, before: int, file: str, done: int
) -> None:
    progress(DownloadProgress(name, file, before + done, total))


def _plan_repository(
    api: Any, name: str, kind: checkpoint_files.RepoType, revision: str, *, weights: bool
) -> RepositoryPlan:
    """Ask the hub for the files of one repository, and choose those that are needed."""
    ask = api.model_info if kind == "model" else api.dataset_info
    try:
        info = ask(name, revision=revision, files_metadata=True, timeout=60)
    except Exception as error:
        where = f"the {kind} {name} on {api.endpoint}"
        raise PrefetchError(explain_error(error, where, revision)) from error
    names = [sibling.rfilename for sibling in info.siblings or ()]
    files = [
        _remote_file(sibling)
        for sibling in info.siblings or ()
        if is_wanted(sibling.rfilename, names, kind, weights=weights)
    ]
    if not files:
        raise PrefetchError(f"the {kind} {name} at {revision} on {api.endpoint} holds no file that is needed")
    return RepositoryPlan(
        name=name,
        kind=kind,
        revision=revision,
        commit=str(info.sha),
        files=tuple(sorted(files, key=lambda f: f.path)),
        is_script=kind == "dataset" and is_script(names),
    )


def _remote_file(sibling: Any) -> RemoteFile:
    large = sibling.lfs
    return RemoteFile(
        path=sibling.rfilename,
        size=int(large.size if large else sibling.size or 0),
        sha256=large.sha256 if large else None,
        git_sha1=None if large else sibling.blob_id,
    )


def _check_space(plan: DownloadPlan, folder: Path) -> None:
    """Raise PrefetchError when the disk has no room for the files that are missing."""
    present = sum(
        min(file.size, size_of(folder / repository.name / file.path))
        for repository in plan.repositories
        for file in repository.files
    )
    free = shutil.disk_usage(folder).free
    if plan.bytes - present > free:
        raise PrefetchError(
            f"{folder} has {free / 1e9:.2f} GB free, {(plan.bytes - present) / 1e9:.2f} GB are still needed"
        )


def _fetch_repository(endpoint: str, plan: RepositoryPlan, folder: Path, report: Callable[[str, int], None]) -> None:
    """Fetch the files of one repository; its metadata is written last and shows that the repository is complete."""
    partial_folder = folder / mirror.UNFINISHED
    partial_folder.mkdir(parents=True, exist_ok=True)
    done = 0
    for file in plan.files:
        target = folder / file.path
        if not is_intact(target, file):
            url = _address(endpoint, plan, file)
            unfinished = partial_folder / hashlib.sha256(f"{plan.commit} {file.path}".encode()).hexdigest()
            fetch_file(url, unfinished, file, partial(_report_file, report, file.path, done))
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished.replace(target)
        done += file.size
        report(file.path, done)
    metadata = {
        "repository": plan.name,
        "type": plan.kind,
        "revision": plan.revision,
        "commit": plan.commit,
        "endpoint": endpoint,
        "files": [asdict(file) for file in plan.files],
    }
    files.write_atomically(folder / mirror.METADATA, files.to_sorted_json(metadata))
    shutil.rmtree(partial_folder)


def _report_file(report: Callable[[str, int], None], file: str, before: int, done: int) -> None:
    report(file, before + done)


def _address(endpoint: str, plan: RepositoryPlan, file: RemoteFile) -> str:
    kind = "datasets/" if plan.kind == "dataset" else ""
    return f"{endpoint}/{kind}{plan.name}/resolve/{plan.commit}/{quote(file.path)}"
