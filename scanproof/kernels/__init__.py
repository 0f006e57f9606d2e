"""The operations under test and their references."""
