"""Check that the printed numbers are possible and consistent, one module per family of checks; calibration."""
