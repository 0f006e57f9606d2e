"""Which tests are those of published numbers: told by the argument that they got, never by the look of their ids.

The process that collects knows it.  pytest-xdist hands nothing but ids from a worker to its controller, so a worker
leaves beside them, in a folder that the controller made for it, which id belongs to which number.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from scanproof.numbers.values import PublishedValue

VALUE_FIXTURE = "scanproof_value"
"""A test with this argument runs once for every published number."""
FOLDER = "scanproof_selected"
"""Key of `workerinput` under which a worker finds the folder."""


def list_numbers(session: pytest.Session) -> dict[str, PublishedValue]:
    """Node id of each selected test of a published number -> the number."""
    parameters = {item.nodeid: item.callspec.params for item in session.items if hasattr(item, "callspec")}
    return {nodeid: given[VALUE_FIXTURE] for nodeid, given in parameters.items() if VALUE_FIXTURE in given}


class Handover:
    """The folder through which workers say which of their tests are those of numbers."""

    def __init__(self, config: pytest.Config) -> None:
        self._folder = TemporaryDirectory(prefix="scanproof-selected-")
        config.add_cleanup(self._folder.cleanup)

    def announce(self, node: Any) -> None:
        """Tell a worker, before it starts, where to leave it."""
        node.workerinput[FOLDER] = str(Path(self._folder.name) / f"{node.gateway.id}.json")

    def read(self, node: Any) -> dict[str, str] | None:
        """Node id of each test of a number -> id of the number; None from a worker on a machine without the folder."""
        try:
            told: dict[str, str] = json.loads(Path(node.workerinput[FOLDER]).read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError):
            return None
        return told


def hand_on(config: pytest.Config, numbers: dict[str, PublishedValue]) -> None:
    """In a worker of pytest-xdist: leave which tests are those of numbers, for the controller; elsewhere nothing."""
    place = getattr(config, "workerinput", {}).get(FOLDER)
    if place is not None:
        with suppress(OSError):
            # In the order of the tests, which is that of the run.
            told = {nodeid: value.id for nodeid, value in numbers.items()}
            Path(place).write_text(json.dumps(told), encoding="utf-8")
