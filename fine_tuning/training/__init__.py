"""Train an adapter, or all weights, of a base model on tokenized conversations (token rows).

Only this package imports torch, transformers, peft and trl.
"""

import logging

# On some processors each import of bitsandbytes logs advice to install a package that downloads code.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
