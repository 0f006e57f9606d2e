"""Who else provides an operation: other packages' implementations, and a kernel author's own."""
