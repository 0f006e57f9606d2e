"""Modules and whole models held to float64: fast path, slow path, decode steps."""
