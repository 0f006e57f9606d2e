"""`python -m scanproof` is the command `scanproof`, where its folder of scripts is not on the path."""

from __future__ import annotations

from scanproof.cli.app import main

if __name__ == "__main__":
    main()
