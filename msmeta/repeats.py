"""What is evaluated twice at one place, held against itself: a loss or dynamics with random numbers would differ."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor

from msmeta.bilevel import Params, detach, task_dot
from msmeta.checks import ALONE
from msmeta.errors import ConfigError, brief


class Repeats:
    """Notes the inner losses and gradients g of windows on the way forwards, and of the same ones on the way back.

    The loss alone may not show what is random: a network's last layer that starts at zero hides all before it. So the
    squares of g are compared besides, summed over windows, where the rounding of a small g has no weight.
    """

    def __init__(self) -> None:
        self._squares: list[Tensor] = []
        self._squares_again: list[Tensor] = []
        self._pairs: list[tuple[str, Tensor, Tensor]] = []

    def first(self, loss: Tensor, grad: Params) -> tuple[Tensor, Params]:
        """Returns them, without a graph."""
        grad = detach(grad)
        self._squares.append(task_dot(grad, grad, by_task=False))
        return loss.detach(), grad

    def again(self, t: int, loss: Tensor, used: Collection[str], product: Any) -> None:
        """The last window that has not been evaluated again: its loss, the entries of φ that it used, and its product.

        Raises ConfigError where these are others.
        """
        if product.grad.keys() != set(used):
            raise ConfigError(f"inner loss at step {t} uses {brief(used)} and, at the same phi again, others: {ALONE}")
        grad = detach(product.grad)
        self._squares_again.append(task_dot(grad, grad, by_task=False))
        self._pairs.append((f"inner loss at step {t}", loss, product.loss))

    def landed(self, t: int, *phis: Params) -> None:
        """φ after step t, twice."""
        self._pairs.append((f"squared phi after step {t}", *(task_dot(phi, phi, by_task=False) for phi in phis)))

    def pairs(self) -> list[tuple[str, Tensor, Tensor]]:
        """What is to be equal: what it is, its value, and the one at the same place again."""
        squares = sum(self._squares), sum(self._squares_again)
        return [*self._pairs, ("the sum of squared inner gradients", *squares)]
