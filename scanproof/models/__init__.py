"""lm-eval model classes that the documents need and lm-eval lacks; importing this imports no torch."""

from __future__ import annotations

CLASSES: tuple[tuple[str, str], ...] = (
    ("depth_pruned", "scanproof.models.pruning.lm_eval_classes:DepthPruned"),
    ("depth_pruned_mamba_ssm", "scanproof.models.pruning.lm_eval_classes:DepthPrunedStateSpaces"),
    ("mamba2_hybrid", "scanproof.models.mamba_in_llama.adapters:Mamba2Hybrid"),
    ("mamba2_hybrid_megatron", "scanproof.models.megatron.model:MegatronHybrid"),
    ("mamba_hybrid", "scanproof.models.mamba_in_llama.adapters:MambaHybrid"),
    ("mamba_ssm", "scanproof.models.state_spaces:StateSpaces"),
)
"""(name in lm-eval, module and class)."""


def register() -> None:
    """Register our classes with lm-eval, before `simple_evaluate`; a second call changes nothing.

    `mamba_ssm` replaces lm-eval's own class, which needs a GPU package even on a CPU and ignores `revision`.
    """
    from importlib import import_module

    # Importing lm_eval.models fills the registry; our entries must be made afterwards.
    import_module("lm_eval.models")
    model_registry = import_module("lm_eval.api.registry").model_registry
    for name, target in CLASSES:
        # The registry refuses a second entry for a name and has no public call to replace one.
        model_registry._objs[name] = target
