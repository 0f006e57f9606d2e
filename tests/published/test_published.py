"""The suite: one test for every published number, and for every number of the embedded stand-ins.

Copy this file into a project of your own: what it uses comes with scanproof's pytest plugin.
"""


def test_published(scanproof_value, scanproof_check):
    """The number that was published still comes out within what noise explains, document by document as before."""
    scanproof_check(scanproof_value)
