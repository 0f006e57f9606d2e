"""The exam of the gates: faults of the harness, of the data and of the session, and whether a session fails by them."""
