"""Settings of the property tests of this room."""

from hypothesis import settings

# No test depends on how fast it runs: the first example waits until torch is imported.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
