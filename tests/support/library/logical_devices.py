"""Devices that this machine does not have: a check that no operation mixes tensors of two.

Within ``logical_devices()``, ``cpu:1``, ``cpu:2``, … are devices of their own.  Their tensors are
computed on the CPU, and say that they are on their device.  As with GPUs, an operation takes
tensors of one device alone, but for copies, numbers without dimensions and indices on the CPU; and
NumPy reads none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten
OF_THE_NUMBERS = {torch.Tensor.tolist, torch.Tensor.untyped_storage, torch.Tensor.__repr__}
"""What is asked of a tensor's numbers and memory, wherever it is."""
COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
NUMBERS = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default}
CPU = torch.device("cpu")


class MixedDevices(RuntimeError):
    """An operation was given tensors of several devices."""


class OnDevice(torch.Tensor):
    """A tensor that is on a logical device; its numbers are those of ``inner``, on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device: torch.device) -> OnDevice:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=device,
            requires_grad=False,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.numpy:
            raise MixedDevices("NumPy reads tensors of the CPU alone")
        if func in OF_THE_NUMBERS:
            return func(*map(_plain, args), **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    def untyped_storage(self) -> torch.UntypedStorage:
        """The memory of its numbers, also within an operation."""
        return self.inner.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        # indices may be on the CPU
        given = (args[0], *args[2:]) if func in INDEXED else args
        device = _device_of(func, [*_tensors(given), *_tensors(kwargs.values())])
        if func in INDEXED:
            wrong = [one.device for one in _tensors(args[1]) if one.device not in (device, CPU)]
            if wrong:
                raise MixedDevices(f"{func} of {device} by indices on {wrong[0]}")
        if func is aten._to_copy.default:
            device = kwargs.pop("device", None) or device
        elif kwargs.get("device") is not None:
            device, kwargs["device"] = kwargs["device"], CPU
        elif "device" in kwargs:
            kwargs["device"] = CPU
        found = func(*_plain(args), **{name: _plain(one) for name, one in kwargs.items()})
        if func in NUMBERS:
            return found
        if func._schema.is_mutable:
            return kwargs.get("out", args[0])
        return _wrapped(found, device)


def _is_logical(device: torch.device) -> bool:
    return device.type == "cpu" and bool(device.index)


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for one in values:
        if isinstance(one, torch.Tensor):
            yield one
        elif isinstance(one, (tuple, list)):
            yield from _tensors(one)


def _plain(value: Any) -> Any:
    if isinstance(value, OnDevice):
        return value.inner
    return type(value)(map(_plain, value)) if type(value) in (tuple, list) else value


def _wrapped(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return OnDevice(value, device) if _is_logical(device) else value
    if isinstance(value, (tuple, list)):
        return [_wrapped(one, device) for one in value]
    return value


def _device_of(func: Any, tensors: list[torch.Tensor]) -> torch.device:
    """The device of an operation's result: that of its tensors, which must be one."""
    if func in COPIES:
        return tensors[0].device
    found = {one.device for one in tensors if one.dim() or one.device != CPU}
    if len(found) > 1:
        raise MixedDevices(f"{func} of {' and '.join(sorted(map(str, found)))}")
    return next(iter(found), CPU)


class _Asked(TorchFunctionMode):
    """Makes tensors that are asked for on a logical device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if device is not None and not any(issubclass(kind, OnDevice) for kind in types):
            device = torch.device(device)
            if _is_logical(device) and func is not torch.Tensor.to:
                return OnDevice(func(*args, **{**kwargs, "device": CPU}), device)
        if func is torch.Tensor.to:
            return _moved(args, kwargs)
        return func(*args, **kwargs)


def _moved(args: Any, kwargs: Any) -> torch.Tensor:
    """``tensor.to(…)``, which is differentiable by what torch does with the copy of a device."""
    tensor, *rest = args
    found: torch.Tensor = torch.Tensor.to(tensor, *rest, **kwargs)
    asked = [*rest, *kwargs.values()]
    for one in asked:
        if isinstance(one, str | torch.device):
            device = torch.device(one)
            if _is_logical(device) and not isinstance(found, OnDevice):
                return _Copied.apply(found, device)
    return found


class _Copied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        return OnDevice(tensor.detach().clone(), device)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient.to("cpu"), None


@contextmanager
def logical_devices() -> Iterator[None]:
    """Have such devices in this thread."""
    future = torch.__future__
    before = future.get_overwrite_module_params_on_conversion()
    # ``module.to`` makes new parameters: a tensor of the CPU cannot become one of a device in place
    future.set_overwrite_module_params_on_conversion(True)
    try:
        with _Asked():
            yield
    finally:
        future.set_overwrite_module_params_on_conversion(before)
