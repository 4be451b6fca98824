"""From token rows to an adapter. The only package that imports torch, transformers, peft and trl."""
