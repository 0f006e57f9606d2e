"""What each job needs of a GPU, and in which order jobs run."""
