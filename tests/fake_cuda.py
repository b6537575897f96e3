"""Tensors on a CUDA device that does not exist: shapes, types and devices are real, numbers are
not.

A tensor on the wrong device, `.item()` and `bool(tensor)` raise. On a PyTorch built without CUDA,
indexing and `~` look for the driver; here they are spelt out in the operators they stand for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


class _SpeltOutIndexing(TorchFunctionMode):
    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is Tensor.__getitem__:
            return _view(*args)
        if function is Tensor.__setitem__:
            target, index, value = args
            rows = (
                next((part for part in index if isinstance(part, (list, Tensor))), None)
                if isinstance(index, tuple)
                else None
            )
            if rows is None:
                target = _view(target, index)
                return (
                    aten.copy_(target, value)
                    if isinstance(value, Tensor)
                    else aten.fill_(target, value)
                )
            where = [
                torch.tensor(part, device=target.device) if isinstance(part, list) else None
                for part in index
            ]
            return aten.index_put_(
                target, where, torch.full((), value, device=target.device, dtype=target.dtype)
            )
        if function is Tensor.__invert__:
            return aten.bitwise_not(*args)
        return function(*args, **(kwargs or {}))


def _view(tensor: Tensor, index: Any) -> Tensor:
    dim, parts = 0, index if isinstance(index, tuple) else (index,)
    if any(part is Ellipsis for part in parts):
        at = next(i for i, part in enumerate(parts) if part is Ellipsis)
        taken = sum(part is not None for part in parts) - 1
        parts = (*parts[:at], *[slice(None)] * (tensor.dim() - taken), *parts[at + 1 :])
    for part in parts:
        if part is None:
            tensor = aten.unsqueeze(tensor, dim)
        elif isinstance(part, slice):
            if part != slice(None):
                tensor = aten.slice(tensor, dim, part.start, part.stop, part.step or 1)
        elif isinstance(part, int):
            tensor = aten.select(tensor, dim, part)
            continue
        else:
            if part.dtype == torch.bool:
                raise TypeError("indexing by a mask synchronises")
            tensor = aten.index(tensor, [*[None] * dim, part])
        dim += 1
    return tensor


class StaysOnCuda(TorchDispatchMode):
    """Fails on any operation whose result lies elsewhere, numbers that PyTorch wraps excepted: fake
    tensors allow `.cpu()`.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and value.dim() > 0:
                assert value.device.type == "cuda", func
        return out


@contextmanager
def fake_cuda() -> Iterator[torch.device]:
    """Inside, tensors made with `device="cuda"` are fake; no gradients."""
    with torch.no_grad(), FakeTensorMode(), _SpeltOutIndexing():
        yield torch.device("cuda")
