"""References: the operations in plain PyTorch, in any floating dtype, written to be read beside their papers."""
