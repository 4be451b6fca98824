"""Metrics for the `evaluate` library that ship with the project and need no network: one folder per metric id."""
