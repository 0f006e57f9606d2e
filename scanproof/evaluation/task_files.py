"""Find the files of lm-eval that define a task, without importing lm-eval or parsing its 14,000 files."""

from __future__ import annotations

import difflib
import hashlib
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scanproof import files
from scanproof.errors import EvaluationError

_NAME = re.compile(rb"^[\"']?(task|group)[\"']?:[ \t]*[\"']?([^\s\"'\[{#&*!|>]+)", re.MULTILINE)
_LIST = re.compile(rb"^[\"']?(tag|include)[\"']?:([^\n]*(?:\n[ \t]*-[^\n]*)*)", re.MULTILINE)
_WORD = re.compile(r"[\w][\w.+/-]*")
_IGNORED_FOLDERS = {"__pycache__", ".ipynb_checkpoints"}
_BUILDERS = {"arrow", "csv", "json", "pandas", "parquet", "text", "imagefolder", "audiofolder"}


class UnknownTask(Exception):
    """lm-eval defines no task, group or tag of that name."""


@dataclass(frozen=True)
class TaskFiles:
    """An index of lm-eval's task definitions: where each task and group is defined."""

    root: Path
    """lm-eval's folder of task definitions."""
    files: Mapping[str, str]
    """Task or group name -> YAML file relative to `root`."""
    tags: Mapping[str, tuple[str, ...]]
    """Tag -> names of its tasks."""


@dataclass(frozen=True)
class Selection:
    """The part of lm-eval's definitions that a job's tasks need."""

    roots: tuple[str, ...]
    """The requested names, without those that are members of another requested name."""
    leaves: tuple[str, ...]
    """The single tasks that are evaluated."""
    groups: tuple[str, ...]
    """The groups that contain them."""
    folders: tuple[Path, ...]
    """Folders with all these definitions; none lies inside another."""
    datasets: tuple[str, ...]
    """Hub names of the datasets."""
    opaque: tuple[str, ...]
    """Tasks whose definition does not name their data on the hub: Python tasks, and data files given by address."""


def load_index(root: Path, cache: Path) -> TaskFiles:
    """The index of `root`: read from the folder `cache` unless a definition file changed since, else built anew.

    Raises:
        EvaluationError: the definitions cannot be read.
    """
    with _readable(root):
        paths, stamp = _definition_files(root)
    cached = cache / f"tasks-{stamp[:32]}.json"
    try:
        kept = files.read_record(_CachedIndex, cached)
        if kept.digest == _digest_index(kept.files, kept.tags):
            return TaskFiles(root, kept.files, kept.tags)
    except (OSError, ValueError):
        # It is not there, or not as it is written below.
        pass
    with _readable(root):
        index = build_index(root, paths)
    kept = _CachedIndex(dict(index.files), dict(index.tags), _digest_index(index.files, index.tags))
    if cached.exists() and not cached.is_file():
        files.remove(cached)
    files.write_atomically(cached, files.to_json(kept, indent=None))
    return index


@dataclass(frozen=True)
class _CachedIndex:
    """The index as the cache keeps it."""

    files: dict[str, str]
    tags: dict[str, tuple[str, ...]]
    digest: str
    """Of both: with a changed name a task would be read from another file."""


def _digest_index(files_by_name: Mapping[str, str], tags: Mapping[str, tuple[str, ...]]) -> str:
    content = files.to_sorted_json([dict(files_by_name), {tag: list(names) for tag, names in tags.items()}])
    return hashlib.sha256(content).hexdigest()


def build_index(root: Path, paths: Iterable[str] | None = None) -> TaskFiles:
    """Read names, tags and includes of every definition file by text search; takes about 1 s for lm-eval 0.4.13."""
    listed = sorted(_definition_files(root)[0] if paths is None else paths)
    heads: dict[str, _Head] = {}
    files: dict[str, str] = {}
    tags: dict[str, list[str]] = {}
    for path in listed:
        head = _head(root, path, heads)
        if head.name is None or head.name in files:
            continue
        files[head.name] = path
        for tag in () if head.is_group else _tags(root, path, heads, frozenset()):
            tags.setdefault(tag, []).append(head.name)
    return TaskFiles(root, files, {tag: tuple(names) for tag, names in tags.items()})


def select(index: TaskFiles, names: Iterable[str]) -> Selection:
    """Find everything that these tasks, groups and tags need.

    Raises:
        UnknownTask: lm-eval does not define a name; the message lists the most similar names that it defines.
        EvaluationError: a definition cannot be read.
    """
    wanted = tuple(dict.fromkeys(names))
    below = {name: _expand(index, name) for name in wanted}
    roots = tuple(name for name in wanted if not any(name in below[o] for o in wanted if o != name))
    everything = sorted(set(roots) | {member for name in roots for member in below[name]})
    defined = [name for name in everything if name in index.files]
    configs = {name: read_definition(index.root / index.files[name])[0] for name in defined}
    leaves = tuple(name for name in defined if "group" not in configs[name])
    sources = {name: _dataset(configs[name]) for name in leaves}
    return Selection(
        roots=roots,
        leaves=leaves,
        groups=tuple(name for name in defined if name not in leaves),
        folders=_outermost({(index.root / index.files[name]).parent for name in defined}),
        datasets=tuple(sorted({source for source in sources.values() if source})),
        opaque=tuple(name for name in leaves if sources[name] is None),
    )


def read_definition(path: Path) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """A definition file merged with the files that it includes, and the paths of all of them.

    Functions (`!function`) stay strings; no code of the task is executed.

    Raises:
        UnknownTask: it defines nothing.
        EvaluationError: it cannot be read.
    """
    with _readable(path):
        config = yaml.load(path.read_bytes(), Loader=_Loader)
    if not isinstance(config, dict):
        raise UnknownTask(f"{path} is not a task definition")
    includes = config.pop("include", ())
    merged: dict[str, Any] = {}
    files = [path]
    for include in [includes] if isinstance(includes, str) else includes:
        part, read = read_definition((path.parent / include).resolve())
        part.pop("task_list", None)
        merged.update(part)
        files.extend(read)
    return {**merged, **config}, tuple(files)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """A block that reads definitions: what cannot be read raises EvaluationError, which names the file or folder."""
    try:
        yield
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        where = getattr(error, "filename", None) or path
        why = getattr(error, "strerror", None) or str(error)
        message = f"lm-eval's task files cannot be read: {where}: {why}; install lm-eval again"
        raise EvaluationError("worker", message) from error


class _Loader(files.YamlLoader):  # type: ignore[misc]
    """Safe loader that reads lm-eval's `!function` tags as text."""


_Loader.add_constructor("!function", lambda loader, node: f"!function {node.value}")


@dataclass(frozen=True)
class _Head:
    """The keys of a definition file that the index needs."""

    name: str | None
    is_group: bool
    tags: tuple[str, ...] | None
    includes: tuple[str, ...]


def _definition_files(root: Path) -> tuple[list[str], str]:
    """Relative paths of all YAML files, and a digest of their names, sizes and times."""
    definitions = sorted(_walk(str(root), ""))
    digest = hashlib.sha256(str(root).encode())
    for path, size, changed in definitions:
        digest.update(f"\n{path} {size} {changed}".encode())
    return [path for path, _, _ in definitions], digest.hexdigest()


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, int, int]]:
    """Relative path, size in bytes and time of change in nanoseconds of each YAML file."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if entry.name not in _IGNORED_FOLDERS:
                    yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif entry.name.endswith(".yaml"):
                status = entry.stat()
                yield prefix + entry.name, status.st_size, status.st_mtime_ns


def _head(root: Path, path: str, heads: dict[str, _Head]) -> _Head:
    if path not in heads:
        text = _read_if_file(os.path.join(root, path))  # noqa: PTH118 (14,000 of them)
        names = {kind: name.decode() for kind, name in reversed(_NAME.findall(text))}
        lists = {kind.decode(): _words(body) for kind, body in _LIST.findall(text)}
        heads[path] = _Head(
            name=names.get(b"group", names.get(b"task")),
            is_group=b"group" in names,
            tags=lists.get("tag"),
            includes=lists.get("include", ()),
        )
    return heads[path]


def _read_if_file(path: str) -> bytes:
    """The bytes of a definition; none where an include leads nowhere."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            return file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return b""


def _words(body: bytes) -> tuple[str, ...]:
    return tuple(_WORD.findall(re.sub(r"(^|\s)#.*", "", body.decode("utf-8", "replace"))))


def _tags(root: Path, path: str, heads: dict[str, _Head], seen: frozenset[str]) -> tuple[str, ...]:
    """Tags of a file: its own, or else those of the last included file that has tags."""
    head = _head(root, path, heads)
    if head.tags is not None or path in seen:
        return head.tags or ()
    inherited: tuple[str, ...] = ()
    for include in head.includes:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), include))
        inherited = _tags(root, target, heads, seen | {path}) or inherited
    return inherited


def _expand(index: TaskFiles, name: str) -> frozenset[str]:
    """All names below a group or tag, without itself."""
    members: set[str] = set()
    pending = [name]
    while pending:
        current = pending.pop()
        children = _children(index, current)
        pending.extend(child for child in children if child not in members)
        members.update(children)
    return frozenset(members - {name})


def _children(index: TaskFiles, name: str) -> tuple[str, ...]:
    """Direct members of a group or tag; none for a task.  Raises UnknownTask."""
    if name in index.files:
        config, _ = read_definition(index.root / index.files[name])
        if "group" not in config:
            return ()
        members = config.get("task", ())
        return tuple(_member(member) for member in ([members] if isinstance(members, str) else members))
    if name in index.tags:
        return index.tags[name]
    near = difflib.get_close_matches(name, [*index.files, *index.tags], n=3)
    hint = f"; the nearest names are {', '.join(near)}" if near else ""
    raise UnknownTask(f"lm-eval in {index.root.parent} has no task or group {name!r}{hint}")


def _member(member: Any) -> str:
    if isinstance(member, str):
        return member
    name = member.get("task") if isinstance(member, dict) else None
    if not isinstance(name, str):
        raise UnknownTask(f"a group member without a task name cannot be followed: {member!r}")
    return name


def _dataset(config: Mapping[str, Any]) -> str | None:
    """Hub name of a task's dataset; None where the definition does not name one."""
    path = config.get("dataset_path")
    opaque = "class" in config or "custom_dataset" in config or not isinstance(path, str) or path in _BUILDERS
    return None if opaque else path


def _outermost(folders: set[Path]) -> tuple[Path, ...]:
    """The folders that lie inside no other folder of the set."""
    return tuple(sorted(f for f in folders if not any(f != o and f.is_relative_to(o) for o in folders)))
