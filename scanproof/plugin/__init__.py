"""What pytest sees: hooks, options, fixtures, the jobs of a session, the run that it leaves."""
