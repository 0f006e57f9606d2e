"""Which package moves a number: mixtures of two environments are tried until the smallest one that does is found."""
