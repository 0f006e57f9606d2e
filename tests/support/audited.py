"""What the tests of the audit share: numbers as lm-eval's tables print them, and what the audit finds in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from scanproof.numbers.audit.audit import AuditFinding, audit
from scanproof.numbers.values import PublishedValue
from tests.support.builders import CONSTANTS, published


def audited(values: Sequence[PublishedValue], *findings: dict[str, Any]) -> tuple[AuditFinding, ...]:
    document = SimpleNamespace(number="001", folder="001-reproduction", findings=findings)
    expected: Any = SimpleNamespace(values=tuple(values), documents=(document,), constants=CONSTANTS)
    return audit(expected)


def as_printed(k: int, n: int, **changes: Any) -> PublishedValue:
    """A share and its standard error as lm-eval's tables print them."""
    p = k / n
    stderr = f"{math.sqrt(p * (1 - p) / (n - 1)):.4f}"
    return published(**{"printed": f"{p:.4f}", "documents": n, "stderr": stderr, **changes})
