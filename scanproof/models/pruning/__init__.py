"""Depth pruning: which blocks to remove, and models without them."""
