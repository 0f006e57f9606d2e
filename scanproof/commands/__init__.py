"""The commands of `scanproof`, one module each; `scanproof.cli` puts them together."""
