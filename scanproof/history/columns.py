"""The columns of the history's tables, with DuckDB's names of their types."""

from __future__ import annotations

NUMBERS = {
    "run": "VARCHAR", "id": "VARCHAR", "document": "VARCHAR", "model": "VARCHAR", "hub_id": "VARCHAR",
    "task": "VARCHAR", "metric": "VARCHAR", "origin": "VARCHAR", "job": "VARCHAR", "printed": "VARCHAR",
    "unit": "VARCHAR", "outcome": "VARCHAR", "because": "VARCHAR", "expected": "DOUBLE", "measured": "DOUBLE",
    "difference": "DOUBLE", "allowed": "DOUBLE", "documents": "INTEGER", "documents_moved": "DOUBLE",
    "sigmas": "DOUBLE", "evaluation_key": "VARCHAR", "reused": "BOOLEAN", "gate": "VARCHAR",
    "gate_because": "VARCHAR", "gate_p": "DOUBLE",
}  # fmt: skip
"""A row per number; natural units: accuracies as fractions."""
METRIC = "metric_"
"""Prefix of a metric's column in the table of samples."""
