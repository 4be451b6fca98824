"""Compute the same loss and gradients faster; skip this package on first reading.

`training.fused: false` switches this package off: training then uses the modules of PEFT and
Transformers, masked attention, and torch's own matrix products.
"""
