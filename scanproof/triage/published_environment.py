"""The environment in which a number was published, as its document says it.  Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from scanproof.environment import PACKAGES
from scanproof.numbers.expected.reader import PublishedDocument

_WHEEL = re.compile(r"(?P<name>[A-Za-z0-9_.]+)-(?P<version>[0-9][0-9.]*)")


def environment(document: PublishedDocument) -> Mapping[str, str]:
    """`gpu`, `driver`, `cuda`, `python` and distributions that move numbers, each as far as it is said."""
    software = document.environment
    stated = {name: said for name in ("gpu", "driver", "cuda") if (said := document.hardware.get(name))}
    if software.get("python"):
        stated["python"] = str(software["python"])
    for name, said in (software.get("conda") or {}).items():
        stated[name] = said.partition("=")[0]
    for wheel in software.get("wheels") or ():
        match = _WHEEL.match(wheel)
        if match:
            stated[match["name"].replace("_", "-")] = match["version"].rstrip(".")
    stated |= software.get("packages") or {}
    harness = document.harness
    if harness.get("name") == "lm-eval" and harness.get("version"):
        stated["lm-eval"] = str(harness["version"])
    kept = {*PACKAGES, "gpu", "driver", "cuda", "python"} - {"scanproof"}
    return {name: said for name, said in stated.items() if name in kept}
