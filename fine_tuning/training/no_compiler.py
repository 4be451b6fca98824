"""Keep PyTorch's compiler from being loaded in this process. To be imported before PEFT.

PEFT imports bitsandbytes, whose decorators would load the compiler, which takes a third of the time
before a training starts. Nothing here uses it.
"""

import os

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
