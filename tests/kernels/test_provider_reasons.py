"""What a provider's Triton kernels are said not to do, they do not, in Triton's interpreter."""

from __future__ import annotations

import pytest

from scanproof.kernels.providers.provider import Provider
from scanproof.plugin.kernel_fixtures import Missing
from tests.support import provider_reasons


@pytest.mark.interpreted
@pytest.mark.parametrize(("provider", "reason"), provider_reasons.list_reasons("interpreter"))
def test_what_it_is_said_not_to_do_it_does_not(
    scanproof_interpreter: str | None, scanproof_missing: Missing, provider: Provider, reason: str
) -> None:
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    provider_reasons.check_reason(provider, reason)
