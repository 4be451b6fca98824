"""Types for functions with a gradient of their own."""

from typing import Protocol

from torch import Tensor
from torch.autograd import Function


def apply(function: type[Function], *arguments: object) -> Tensor:
    """Return what the function's forward pass returns; autograd will call its backward pass."""
    result: Tensor = function.apply(*arguments)
    return result


class Context(Protocol):
    """The part of torch's FunctionCtx that this package uses.

    Autograd hands it to a function's forward and backward passes.
    """

    @property
    def needs_input_grad(self) -> tuple[bool, ...]:
        """Of each argument of `forward`, whether its gradient is needed."""

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]:
        """What `save_for_backward` was given."""

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...
