"""Same loss and gradients, faster; skip on first reading.

`training.fused: false` does without: PEFT's and Transformers' own modules, attention by mask, and
torch's own matrix products.
"""
