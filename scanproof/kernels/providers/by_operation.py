"""Which provider of an operation is here, and how many of its cases each can run: for `scanproof doctor`."""

from __future__ import annotations

from collections.abc import Sequence

from scanproof.kernels import cases, doctor
from scanproof.kernels.launches import kernel_table
from scanproof.kernels.launches.machine import Machine
from scanproof.kernels.launches.origin import find_installed
from scanproof.kernels.providers.hub_table import HUB
from scanproof.kernels.providers.provider import Provider
from scanproof.kernels.providers.provider_table import PROVIDERS

INSTALLED = "kernels"
"""Column of the package whose kernels an operation is."""
ON_CPU = frozenset({"cpu", "interpreter"})
"""Places of a machine without a GPU."""


def list_providers(machine: Machine) -> list[dict[str, str]]:
    """One row for each operation, with a column for each provider: `ok`, `missing`, `cannot` or `when named`."""
    rows = {row.what: row for row in doctor.diagnose(machine)}
    everything = cases.load()
    providers = (*PROVIDERS, *HUB)
    titles = list(dict.fromkeys(provider.title for provider in providers))
    listed = []
    for operation in kernel_table.OPERATIONS:
        mine = [case for case in everything if case.op == operation.name and case.on_cpu]
        others = {provider.title: provider for provider in providers if provider.operation == operation.name}
        found = rows[operation.name]
        state = "ok" if found.state == "ok" else f"{found.state}: {found.found}"
        listed.append(
            {
                "operation": operation.name,
                INSTALLED: f"{operation.distribution} {state}",
                **{title: describe(others.get(title), mine) for title in titles},
            }
        )
    return listed


def describe(provider: Provider | None, on_cpu: Sequence[cases.KernelCase]) -> str:
    """What a provider is to an operation; of one that is installed, how many of the cases on a CPU it can run.

    Triton kernels run there in Triton's interpreter, and only a few of the cases.  A kernel of the hub is not loaded:
    it runs where it is named.
    """
    if provider is None:
        return "cannot"
    if find_installed(provider.distribution) is None:
        return f"missing: no {provider.distribution}"
    if provider.hub is not None:
        # Loading it runs what is downloaded.
        return f"when named: {provider.hub}"
    able = [case for case in on_cpu if ON_CPU & {*provider.places_of(case)} and provider.why_cannot(case) is None]
    return f"ok, {len(able)} of {len(on_cpu)} cases"
