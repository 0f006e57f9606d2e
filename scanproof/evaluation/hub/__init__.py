"""Checkpoints and datasets from a mirror, and how a mirror is filled."""
