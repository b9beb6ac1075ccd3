"""`torch.nn.Module`s in and out of a bilevel problem: a module as a function of its parameters alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.backends import cudnn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from msmeta.bilevel import Params
from msmeta.checks import require_params
from msmeta.errors import ConfigError

_ONE_THREAD = threading.RLock()
"""`functional_call` puts parameters into the module for a while, and generators are torch's own."""


def from_module(module: nn.Module) -> tuple[Callable[..., Any], Params]:
    """`call, theta` of a module: `call(params, *args, **kwargs)` is what it returns with these parameters.

    theta: the module's own `nn.Parameter`s by name, tied ones once, under their first name; those with
    `requires_grad=False` are frozen. An optimiser of `module.parameters()` thus moves theta, once their `.grad` is set.
    params: a tensor for each name of theta. With fewer of them adapted, call with `{**theta, **phi}`.

    `call` depends on its arguments alone, as both backward modes and differences need. Buffers are copies at each
    call, so that batch norm's running statistics stay as they are; in training mode it normalises by the batch. A
    module that draws random numbers (dropout) needs `call(params, ..., seed=t)`, and draws the same ones for the same
    seed. Attention and recurrence are by plain operations, which have second derivatives. train() and eval() work as
    ever.

    Raises ConfigError for what is no module, or has lazy parameters; `call` does so for params of other names or
    shapes, for random numbers without a seed, for checkpointed activations, which would be calculated again with the
    module's own parameters, and for batch norm in `torch.func.vmap`, whose second derivatives are wrong where
    they are taken inside of it (pytorch/functorch#534).

    >>> call, theta = from_module(nn.Linear(3, 2))
    >>> {name: tuple(value.shape) for name, value in theta.items()}
    {'weight': (2, 3), 'bias': (2,)}
    >>> tuple(call(theta, torch.zeros(5, 3)).shape)
    (5, 2)
    """
    _require_module(module)

    def call(params: Params, *args: Any, seed: int | None = None, **kwargs: Any) -> Any:
        _require_params(module, params)
        _require_no_mapped_norm(module, params)
        buffers = {name: value.clone() for name, value in module.named_buffers()}
        device = next((value.device for value in params.values()), torch.device("cpu"))
        with _ONE_THREAD, _plain_operations(module), _random_numbers(module, seed, device), _no_recomputing(module):
            return functional_call(module, {**params, **buffers}, args, kwargs)

    return call, dict(module.named_parameters())


def to_module(module: nn.Module, params: Params) -> None:
    """Copies parameters, as `out.phi` or theta, into a module in place; buffers, such as running statistics, stay.

    params: a tensor for each name that `from_module` gave, of the same shape; without the dimension of tasks.

    Raises ConfigError for other names or shapes than the module's, with nothing copied.
    """
    _require_module(module)
    _require_params(module, params)
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(params[name])


def _require_module(module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise ConfigError(f"the module is a {type(module).__name__}: it must be a torch.nn.Module")
    if isinstance(module, nn.DataParallel | torch.jit.ScriptModule):
        raise ConfigError(
            f"the module is a {type(module).__name__}, which cannot be called with other parameters: "
            "give what is inside of it"
        )
    for name, value in module.named_parameters():
        if is_lazy(value):
            raise ConfigError(f"{name} of the module has no shape yet: call the module once before")


def _require_params(module: nn.Module, params: Any) -> None:
    own = dict(module.named_parameters())
    if not isinstance(params, Mapping):
        raise ConfigError(f"params is a {type(params).__name__}: it must be a dict of tensors")
    if missing := own.keys() - params.keys():
        needs = "all of the module's are needed; where phi has some of them, give {**theta, **phi}"
        raise ConfigError(f"params lack {min(missing)!r}: {needs}")
    if unknown := params.keys() - own.keys():
        kinds = "buffers and a tied parameter's second name have no place there"
        raise ConfigError(f"params have {min(unknown)!r}, which is no parameter of the module: {kinds}")
    require_params(params, "params")
    for name, value in own.items():
        if params[name].shape != value.shape:
            shapes = f"{tuple(params[name].shape)} and the module's is {tuple(value.shape)}"
            raise ConfigError(f"params have shape {shapes} under {name!r}: give one task's, or take torch.func.vmap")


def _require_no_mapped_norm(module: nn.Module, params: Params) -> None:
    if not any(torch._C._functorch.is_batchedtensor(value) for value in params.values()):
        return
    for name, part in module.named_modules():
        if isinstance(part, _NormBase) and (part.training or part.running_mean is None):
            what = f"{name or 'the module'} is a {type(part).__name__} in torch.func.vmap"
            raise ConfigError(f"{what}, whose second derivatives can be wrong there: loop over tasks, or use eval()")


@contextmanager
def _plain_operations(module: nn.Module) -> Iterator[None]:
    """Without the fused kernels of attention and of cuDNN's RNNs: their gradients cannot be differentiated."""
    recurrent = any(isinstance(part, nn.RNNBase) for part in module.modules())
    with sdpa_kernel(SDPBackend.MATH), cudnn.flags(enabled=False) if recurrent else nullcontext():
        yield


@contextmanager
def _no_recomputing(module: nn.Module) -> Iterator[None]:
    """Without checkpointed activations. These are a hook of saved tensors, which can be forbidden where none is set."""
    what = f"the {type(module).__name__} checkpoints activations, or hooks saved tensors otherwise: turn that off"
    with ExitStack() as stack:
        with suppress(RuntimeError):
            stack.enter_context(disable_saved_tensors_hooks(what))
        try:
            yield
        except RuntimeError as error:
            if str(error) == what:
                raise ConfigError(what) from error
            raise


@contextmanager
def random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's generators begin at this seed inside, and are afterwards as they were."""
    is_cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if is_cuda else []), torch.cuda.device(device) if is_cuda else nullcontext():
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would move those of all GPUs
        if is_cuda:
            torch.cuda.manual_seed(seed)
        yield


@contextmanager
def _random_numbers(module: nn.Module, seed: int | None, device: torch.device) -> Iterator[None]:
    """Those of a seed, with torch's generators left as they were; without one none may be drawn."""
    if seed is not None:
        with random_numbers(seed, device):
            yield
        return
    before = _generators(device)
    yield
    if not all(map(torch.equal, before, _generators(device))):
        what = f"the {type(module).__name__} draws random numbers, as dropout does"
        raise ConfigError(f"{what}: call it with seed=t, another one for each step, or use eval()")


def _generators(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
        states.append(torch.cuda.get_rng_state(device))
    return states
