"""Are the printed numbers possible and consistent?  One module per family of checks; calibration."""
