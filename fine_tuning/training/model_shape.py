"""Read from a GGUF the sizes that a forecast (estimate.py) needs, without loading the model."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fine_tuning.errors import TrainingError

if TYPE_CHECKING:
    from fine_tuning.engines.gguf_file import GgufFile


@dataclass(frozen=True)
class Shape:
    """The sizes of a model from which time and memory of a training are estimated (estimate.py).

    A width is how many numbers a vector has.
    """

    parameters: int
    layers: int
    heads: int  # number of query heads
    hidden: int  # width of the vectors between layers
    attention: int  # width of all query heads together
    keys: int  # width of all key heads together
    feed_forward: int  # width inside the feed-forward
    vocabulary: int
    linear: int  # weights of all layers' matrices, which multiply every token
    matrices: int  # number of matrices in a layer
    inputs: int  # sum of the input widths of a layer's matrices
    outputs: int  # sum of the output widths of a layer's matrices
    largest: int  # weights of the largest tensor
    quantised: int  # bytes of all layers' matrices in the GGUF
    architecture: str = "llama"


def shape_of(file: "GgufFile") -> Shape:
    """Return the shape of the model in a GGUF.

    Raises TrainingError if metadata are missing, if the layers differ in size, or if the file holds
    no language model.
    """
    header = file.header

    def number(key: str, default: int = 0) -> int:
        value = header.metadata.get(f"{header.architecture}.{key}", default)
        if not isinstance(value, int) or value < 1:
            raise TrainingError(
                f"{file.path} has no single value for {header.architecture}.{key}: models whose layers differ cannot "
                "be trained yet, so choose another base"
            )
        return value

    hidden, heads, layers = number("embedding_length"), number("attention.head_count"), number("block_count")
    head = number("attention.key_length", max(hidden // heads, 1))
    linear = [tensor for tensor in file.tensors.values() if tensor.name.startswith("blk.") and len(tensor.shape) > 1]
    matrices = [tensor.shape for tensor in linear]
    if not matrices or "token_embd.weight" not in header.tensors or len(header.tensors["token_embd.weight"]) != 2:
        raise TrainingError(f"{file.path} has no token embedding, so it is not a language model: choose another base")
    sizes = [math.prod(shape) for shape in header.tensors.values()]
    return Shape(
        parameters=sum(sizes),
        layers=layers,
        heads=heads,
        hidden=hidden,
        attention=heads * head,
        keys=number("attention.head_count_kv", heads) * head,
        feed_forward=number("feed_forward_length", max(shape[1] for shape in matrices)),
        vocabulary=header.tensors["token_embd.weight"][1],
        linear=sum(map(math.prod, matrices)),
        matrices=len(matrices) // layers,
        inputs=sum(shape[0] for shape in matrices) // layers,
        outputs=sum(shape[1] for shape in matrices) // layers,
        largest=max(sizes),
        quantised=sum(tensor.size for tensor in linear),
        architecture=header.architecture,
    )
