"""Records which GPU kernels were launched, and proves that the kernels that a number needs were among them."""
