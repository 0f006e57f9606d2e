"""Compare mamba_ssm's modules and whole models with float64: fast path, slow path, decode steps."""
