"""The suite's own configuration; what it tests is offered to others by `scanproof.plugin`."""

pytest_plugins = ["pytester", "small_project", "kernel_places"]
