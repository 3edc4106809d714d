"""Task weights of the tests' objectives."""

WEIGHTS = [0.3, 0.7, 0.2, 0.5, 0.4, 0.6]
