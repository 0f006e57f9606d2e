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
    found = {name: said for name in ("gpu", "driver", "cuda") if (said := document.hardware.get(name))}
    if software.get("python"):
        found["python"] = str(software["python"])
    for name, said in (software.get("conda") or {}).items():
        found[name] = said.partition("=")[0]
    for wheel in software.get("wheels") or ():
        match = _WHEEL.match(wheel)
        if match:
            found[match["name"].replace("_", "-")] = match["version"].rstrip(".")
    found |= software.get("packages") or {}
    harness = document.harness
    if harness.get("name") == "lm-eval" and harness.get("version"):
        found["lm-eval"] = str(harness["version"])
    kept = {*PACKAGES, "gpu", "driver", "cuda", "python"} - {"scanproof"}
    return {name: said for name, said in found.items() if name in kept}
