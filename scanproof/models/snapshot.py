"""Download a checkpoint of the hub at exactly one commit into a local folder."""

from __future__ import annotations

from pathlib import Path

from scanproof import errors


def snapshot(name: str, revision: str) -> tuple[str, str]:
    """(local folder, commit) of a checkpoint; from the local cache where the hub cannot be reached."""
    from huggingface_hub import HfApi, snapshot_download

    from scanproof.models.checkpoint_files import is_wanted

    try:
        info = HfApi().model_info(name, revision=revision, timeout=30)
    except Exception as error:
        if errors.classify("checkpoint", error) != "hub":
            raise
        return cached_snapshot(name, revision)
    files = [sibling.rfilename for sibling in info.siblings or ()]
    wanted = [file for file in files if is_wanted(file, files, "model")]
    commit = info.sha or revision
    return snapshot_download(name, revision=commit, allow_patterns=wanted), commit


def cached_snapshot(name: str, revision: str) -> tuple[str, str]:
    """The same from the local cache only, which may hold only the safetensors of a checkpoint.

    Raises:
        LocalEntryNotFoundError: the cache has no complete copy.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    from scanproof.models.checkpoint_files import unwanted

    try:
        patterns = list(unwanted(tensors=False))
        folder = snapshot_download(name, revision=revision, local_files_only=True, ignore_patterns=patterns)
    except LocalEntryNotFoundError:
        patterns = list(unwanted(tensors=True))
        folder = snapshot_download(name, revision=revision, local_files_only=True, ignore_patterns=patterns)
        if not any(Path(folder).glob("*.safetensors")):
            raise
    return folder, Path(folder).name
