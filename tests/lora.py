"""LoRA adapters as GGUF files, for the real base."""

from pathlib import Path

import numpy as np


def write_lora(
    path: Path, matrices: dict[str, tuple[np.ndarray, np.ndarray]], alpha: float = 1.0, arch: str = "llama"
) -> Path:
    """Write the adapter that adds B @ A to each of `matrices`: (A, B) by the GGUF's name, without `.weight`."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, (a, b) in matrices.items():
        writer.add_tensor(f"{name}.weight.lora_a", a.astype(np.float32))
        writer.add_tensor(f"{name}.weight.lora_b", b.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
