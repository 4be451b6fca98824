"""Define types for custom autograd functions: functions that compute their own gradient."""

from typing import Protocol

from torch import Tensor
from torch.autograd import Function


def apply(function: type[Function], *arguments: object) -> Tensor:
    """Call a custom autograd function and return its output, with a type that mypy can check."""
    result: Tensor = function.apply(*arguments)
    return result


class Context(Protocol):
    """The part of torch's FunctionCtx that this package uses.

    Autograd passes the same instance to `forward` and to `backward`.
    """

    @property
    def needs_input_grad(self) -> tuple[bool, ...]:
        """For each argument of `forward`, whether its gradient is needed."""

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]:
        """The tensors that were passed to `save_for_backward`."""

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...
