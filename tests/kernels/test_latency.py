"""How long every operation takes, beside this device's own baseline and limits.  What is wrong is never timed.

Copy this file into a kernel's own repository: what it uses comes with scanproof's pytest plugin.
"""


def test_latency(scanproof_latency_case, scanproof_check_latency):
    """The operation is not slower than its baseline on this device, by more than noise explains."""
    scanproof_check_latency(scanproof_latency_case)
