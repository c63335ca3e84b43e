"""Backward passes that are not differentiable themselves say so when they are differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def first_order(backward: Callable[..., Any], *arguments: Any) -> Any:
    """backward(*arguments), whose results raise NotImplementedError if a second derivative goes through them.

    torch's own once_differentiable says nothing to torch.autograd.grad, which passes by nodes it can do without.
    """
    return _FirstOrder.apply(backward, *arguments) if torch.is_grad_enabled() else backward(*arguments)


class _FirstOrder(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(backward: Callable[..., Any], *arguments: Any) -> Any:
        return backward(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        raise NotImplementedError(
            "a scan has gradients of first order, got a derivative of its gradient; for that, call "
            "mru_rl.linear_scan(..., backend='reference')"
        )
