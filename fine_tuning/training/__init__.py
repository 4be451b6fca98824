"""From token rows to an adapter. The only package that imports torch, transformers, peft and trl."""

import logging

# On some processors it proposes to install a package that fetches code from the network, each time it is imported.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
