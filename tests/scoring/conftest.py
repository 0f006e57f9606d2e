"""Property tests of this room have no deadline: how long an example takes depends on the machine's load."""

from hypothesis import settings

# The first example of a test, for one, waits for the import of torch.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
