"""Metrics in the form of the `evaluate` library that ship with the project, so that they need no
network: one folder each, named by id.
"""
