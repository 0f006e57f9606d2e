"""The modules that pytest loads with the plugin are not imported before: pytest warns of each that is."""

from __future__ import annotations

import subprocess
import sys


def test_no_module_of_the_plugin_is_imported_before_pytest_loads_it() -> None:
    code = """
import sys
from scanproof.plugin import hooks
print([name for name in hooks.pytest_plugins if name in sys.modules], len(hooks.pytest_plugins))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "[]", done.stdout
