"""Find checkpoints and datasets in a mirror, and fill a mirror from the hub."""
