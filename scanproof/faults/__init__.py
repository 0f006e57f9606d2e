"""The exam of the suite itself: faults are planted on purpose, and the suite's checks have to find them."""
