"""How much GPU memory and time each job needs, and in which order jobs run."""
