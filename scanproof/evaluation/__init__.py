"""From a job to measurements: request, fingerprint, store, results."""
