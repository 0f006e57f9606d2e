"""The `scanproof` command: one module per command; `scanproof.cli.app` puts them together."""
