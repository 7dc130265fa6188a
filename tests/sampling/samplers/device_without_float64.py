"""A simulated device without float64, as Apple's GPUs are: its tensors have their content on the CPU.

Its type is "meta", the only one that every build of PyTorch has and that computes nothing by itself.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")


class DeviceTensor(torch.Tensor):
    """A tensor of the device."""

    @staticmethod
    def __new__(cls, content):
        if content.dtype == torch.float64:
            raise TypeError("this device has no float64")
        return torch.Tensor._make_wrapper_subclass(cls, content.shape, dtype=content.dtype, device=DEVICE)

    def __init__(self, content):
        self.content = content

    __torch_dispatch__ = None


class Simulated(TorchDispatchMode):
    """While it is active, tensors can be moved to the device, and do not mix with those of the CPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        there = [isinstance(x, DeviceTensor) for x in tensors]
        mixed = any(there) and any(not yes and x.ndim for x, yes in zip(tensors, there, strict=True))
        assert not mixed, f"{function} mixes devices"
        device = kwargs.get("device")
        stays = any(there) if device is None else device.type == DEVICE.type
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        args, kwargs = tree_map_only(DeviceTensor, lambda x: x.content, (args, kwargs))
        result = function(*args, **kwargs)
        return tree_map_only(torch.Tensor, DeviceTensor, result) if stays else result
