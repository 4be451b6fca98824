"""Train an adapter on token rows. Only this package imports torch, transformers, peft and trl."""

import logging

# On some processors each import of bitsandbytes logs advice to install a package that downloads code.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
