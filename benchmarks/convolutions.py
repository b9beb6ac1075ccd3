"""Ways to convolve each task's images with its own weights, timed for the two kinds of pass that few-shot learning has.

    python benchmarks/convolutions.py [--device cuda] [--precision float32|tf32|bf16] [--tasks 4] [--filters 64]

Each formulation runs Conv4's four convolutions (28x28, stride 2) on (tasks, n, C, H, W) without norms and activations:
`first`: forward and backward by the weights, 75 images a task, as the query pass; `second`: the same, differentiated
again, 5 images a task, as a recorded inner step. Fastest of five after a warm-up. Writes
results/benchmarks/convolutions-PRECISION.json (on a GPU convolutions-PRECISION-cuda.json). Run it on an idle machine.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from msmeta import machine, runs
from msmeta.errors import script
from msmeta.models.layers import conv2d

MINUTES = 1

Convolution = Callable[[Tensor, Tensor], Tensor]


def grouped(x: Tensor, weight: Tensor) -> Tensor:
    """Tasks in the channels, one grouped convolution, differentiated by msmeta's rule: x (tasks, n, C, H, W)."""
    tasks, n = x.shape[:2]
    y = conv2d(x.transpose(0, 1).flatten(1, 2), weight.flatten(0, 1), 2, 1, tasks)
    return y.unflatten(1, (tasks, -1)).transpose(0, 1)


def grouped_last(x: Tensor, weight: Tensor) -> Tensor:
    """The same with the channels last in memory."""
    tasks, n = x.shape[:2]
    flat = x.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)
    return conv2d(flat, weight.flatten(0, 1), 2, 1, tasks).unflatten(1, (tasks, -1)).transpose(0, 1)


def grouped_torch(x: Tensor, weight: Tensor) -> Tensor:
    """One grouped convolution with torch's own derivatives."""
    tasks, n = x.shape[:2]
    y = F.conv2d(x.transpose(0, 1).flatten(1, 2), weight.flatten(0, 1), stride=2, padding=1, groups=tasks)
    return y.unflatten(1, (tasks, -1)).transpose(0, 1)


def loop(x: Tensor, weight: Tensor) -> Tensor:
    """One task after another."""
    return torch.stack([F.conv2d(a, w, stride=2, padding=1) for a, w in zip(x, weight, strict=True)])


def unfolded(x: Tensor, weight: Tensor) -> Tensor:
    """Patches as columns and one batched matrix product."""
    tasks, n, _, height, _ = x.shape
    columns = F.unfold(x.flatten(0, 1), 3, padding=1, stride=2)  # (tasks * n, C * 9, L)
    columns = columns.unflatten(0, (tasks, n)).transpose(1, 2).flatten(2)  # (tasks, C * 9, n * L)
    y = torch.bmm(weight.flatten(2), columns).unflatten(2, (n, -1)).transpose(1, 2)
    return y.unflatten(3, ((height + 1) // 2, -1))


FORMULATIONS: dict[str, Convolution] = {
    "grouped": grouped, "grouped, channels last": grouped_last, "grouped, torch's derivatives": grouped_torch,
    "one task at a time": loop, "unfolded, batched product": unfolded,
}  # fmt: skip


def measure(
    convolution: Convolution, order: str, tasks: int, filters: int, device: torch.device, low: torch.dtype
) -> float:
    """Seconds of one pass of this kind."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(tasks, 75 if order == "first" else 5, 1, 28, 28, generator=generator).to(device)
    weights = [
        (0.1 * torch.randn(tasks, filters, fan_in, 3, 3, generator=generator)).to(device).requires_grad_()
        for fan_in in (1, filters, filters, filters)
    ]

    def run() -> None:
        y = x.to(low)
        for weight in weights:
            y = convolution(y, weight.to(low))
        grads = torch.autograd.grad(y.float().square().mean(), weights, create_graph=order == "second")
        if order == "second":
            torch.autograd.grad(sum((grad * grad).sum() for grad in grads), weights)

    return min(machine.timed(run, device, 5)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=["float32", "tf32", "bf16"])
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--filters", type=int, default=64)
    measurement = runs.Measurement.begin(parser)
    args = measurement.options
    device = machine.choose_device(args.device)
    machine.set_precision(args.precision)
    machine.keep_freed_memory()
    low = torch.bfloat16 if args.precision == "bf16" else torch.float32
    rows = []
    for name, convolution in FORMULATIONS.items():
        row = {
            order: measure(convolution, order, args.tasks, args.filters, device, low) for order in ("first", "second")
        }
        rows.append({"formulation": name, **row})
        print(f"{name:30} first order {1000 * row['first']:8.2f} ms, second order {1000 * row['second']:8.2f} ms")
    measurement.save(f"benchmarks/convolutions-{args.precision}.json", vars(args), rows, device)


if __name__ == "__main__":
    script(main)
