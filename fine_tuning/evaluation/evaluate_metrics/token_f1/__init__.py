"""Token F1 as a module of the `evaluate` library."""
