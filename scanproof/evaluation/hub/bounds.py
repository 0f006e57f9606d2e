"""Refuse a checkpoint or dataset that reads files outside its own folder: nothing would tell when those change.

Links to files are followed, as a hub cache has them, and the files behind them are identified by content.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from scanproof import files
from scanproof.models.checkpoint_files import RepoType

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
"""How names of files with weights end.  A model card is no part of the fingerprint, so it may not hold weights."""
ADAPTER = "adapter_config.json"
"""Where this file is, transformers loads the weights of another checkpoint, which the file names."""
CARD = "README.md"
SETTINGS = ".huggingface.yaml"
"""What datasets lays over the head of a dataset's card."""
_SUSPICIOUS = re.compile(rb"\.\.|[^\w*.)\]-]/|~|\\|:\S")
"""Something that may be a path out of a folder or an address, or a character that is escaped."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|.*://", re.DOTALL)
"""A name that begins with a scheme is not sought in the dataset's folder; one that holds another may be opened so."""


class LeadsOut(Exception):
    """Something in a folder names a file outside it, or may do so unseen; the message says which file and key."""


def refuse_ways_out(folder: Path, kind: RepoType, *, remote_code: bool = False) -> None:
    """Raise LeadsOut where a file of `folder` names files elsewhere that an evaluation would read.

    Args:
        folder: a checkpoint or a dataset.
        kind: which of the two.
        remote_code: code of the checkpoint may run, so that it matters where it comes from.
    """
    ways = _ways_out_of_dataset(folder) if kind == "dataset" else _ways_out_of_model(folder, remote_code)
    for file, key, value, why in ways:
        raise LeadsOut(f"{file}: {key}: {value!r:.300} {why}")


def _ways_out_of_model(folder: Path, remote_code: bool) -> Iterator[tuple[Path, str, object, str]]:
    if (folder / ADAPTER).exists():
        named = _read_object(folder / ADAPTER).get("base_model_name_or_path")
        yield folder / ADAPTER, "base_model_name_or_path", named, (
            "are weights of another checkpoint; merge the adapter into a checkpoint of its own"
        )  # fmt: skip
    for index in sorted(folder.glob("*.index.json")):
        named = _read_object(index).get("weight_map")
        for key, name in named.items() if isinstance(named, dict) else ():
            if not isinstance(name, str) or Path(name).name != name or not name.endswith(WEIGHTS):
                yield index, f"weight_map: {key}", name, "does not name a file of weights beside it"
    for path in sorted(folder.glob("*config.json")):
        content = _read_object(path)
        for key, value in content.items():
            if key.endswith("_file") and isinstance(value, str) and _is_elsewhere(folder, value):
                yield path, key, value, "is a file outside the checkpoint's folder; copy it there, or remove the key"
        code = content.get("auto_map")
        for key, value in code.items() if remote_code and isinstance(code, dict) else ():
            if "--" in str(value):
                yield path, f"auto_map: {key}", value, "is code of another repository; copy it into this one"


def _ways_out_of_dataset(folder: Path) -> Iterator[tuple[Path, str, object, str]]:
    for path in (folder / CARD, folder / SETTINGS):
        configurations = _read_settings(path).get("configs")
        for number, configuration in enumerate(configurations if isinstance(configurations, list) else ()):
            for key in ("data_files", "data_dir"):
                named = configuration.get(key) if isinstance(configuration, dict) else None
                for text in filter(_leads_out, _texts(named)):
                    why = "leads out of the dataset's folder; put the file into it"
                    yield path, f"configs[{number}].{key}", text, why


def _leads_out(name: str) -> bool:
    """Whether datasets takes a name of data files for an address, or for a path that leaves the dataset's folder."""
    return name.startswith(("/", "~")) or ".." in Path(name).parts or _ADDRESS.match(name) is not None or "::" in name


def _read_settings(path: Path) -> dict[str, Any]:
    """What the head of a dataset's card, or the file of settings beside it, says.

    Empty where it holds nothing that could lead out, or where datasets cannot read it either.  Raises LeadsOut where it
    cannot be looked through.
    """
    if not path.is_file():
        return {}
    content = files.read_bytes(path)
    # Most hold nothing like an address, and parsing a card with hundreds of configurations takes long.
    if not _SUSPICIOUS.search(content):
        return {}
    try:
        text = content.decode("utf-8-sig")
        settings = yaml.safe_load(_take_head(text) if path.name == CARD else text)
    except (UnicodeDecodeError, yaml.YAMLError):
        return {}
    except RecursionError:
        # Whether datasets can read it depends on how deep its own stack is by then.
        raise LeadsOut(f"{path}: it is nested too deeply to be looked through for files elsewhere") from None
    return settings if isinstance(settings, dict) else {}


def _take_head(card: str) -> str:
    """The YAML at the beginning of a card, found as datasets finds it; empty where nothing in it could lead out."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    block = REGEX_YAML_BLOCK.search(card)
    return block[2] if block is not None and _SUSPICIOUS.search(block[2].encode()) else ""


def _texts(content: Any) -> Iterator[str]:
    """Every text in lists and mappings, whatever their depth.

    Each list and mapping is looked into once: in YAML one may stand in many places, and in itself.
    """
    pending = [content]
    visited: set[int] = set()
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            yield item
            continue
        if id(item) in visited:
            continue
        visited.add(id(item))
        if isinstance(item, list):
            pending += item
        elif isinstance(item, dict):
            pending += item.values()


def _is_elsewhere(folder: Path, value: str) -> bool:
    """Whether `value` names an existing file that is not in the folder.

    Published tokenizers often keep the address of a file of the machine that made them; nobody can read that one.
    """
    if "/" not in value or len(value) > 4096 or "\0" in value:
        return False
    path = folder / value
    return files.is_file(path) and not path.resolve().is_relative_to(folder.resolve())


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none, which its reader will say."""
    try:
        return files.read_json_object(path)
    except (OSError, ValueError):
        return {}
