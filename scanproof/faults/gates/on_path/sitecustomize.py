"""Plants the fault that the exam of the gates asks for into a process that evaluates (`scanproof.faults.gates`)."""

import os

if os.environ.get("SCANPROOF_WORKER") == "1" and os.environ.get("SCANPROOF_GATE_FAULT_PLANTED"):
    from scanproof.faults.gates import in_worker

    in_worker.plant(os.environ["SCANPROOF_GATE_FAULT"], os.environ["SCANPROOF_GATE_FAULT_PLANTED"])
