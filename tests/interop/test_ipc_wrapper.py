#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Our pickles of wrappers against CPython's, byte for byte, both ways.

    test_ipc_wrapper.py                 torch and LMCache's class as far as they can be imported
    test_ipc_wrapper.py --stand-in      with classes that pickle alike instead

Only what this test has made itself is ever loaded.
"""
import pickle
import sys
import types

MODULE = "lmcache.v1.multiprocess.custom_types"


def stand_in_torch():
    """A torch of which only Size and the dtypes are there, pickled as torch does it."""
    torch = types.ModuleType("torch")

    class Size(tuple):
        def __reduce__(self):
            return Size, (tuple(self),)

    class dtype:  # a bare name; its module is not one object with that of Size, as with torch
        __module__ = property(lambda self: "".join(["to", "rch"]))

        def __init__(self, name):
            self.name = name

        def __reduce__(self):
            return self.name

    Size.__module__, Size.__qualname__ = "torch", "Size"
    torch.Size = Size
    for name in ipc_rig.DTYPES:
        setattr(torch, name, dtype(name))
    sys.modules["torch"] = torch
    return torch


def stand_in_class():
    cls = type("CudaIPCWrapper", (), {"__module__": MODULE})
    parts = MODULE.split(".")
    for i in range(len(parts)):
        sys.modules[".".join(parts[:i + 1])] = types.ModuleType(parts[i])
    sys.modules[MODULE].CudaIPCWrapper = cls
    return cls


def find():
    """torch, the class, and what was found in words."""
    if "--stand-in" in sys.argv:
        return stand_in_torch(), stand_in_class(), "stand-ins"
    try:
        import torch
    except ImportError as error:
        print(f"torch cannot be imported: {error}")
        sys.exit(77)
    try:
        from lmcache.v1.multiprocess.custom_types import CudaIPCWrapper
    except ImportError:
        for name in [name for name in sys.modules if name.split(".")[0] == "lmcache"]:
            del sys.modules[name]
        return torch, stand_in_class(), f"torch {torch.__version__}"
    return torch, CudaIPCWrapper, f"torch {torch.__version__} and LMCache's class"


import ipc_rig  # noqa: E402
from interop import check, done  # noqa: E402

torch, Wrapper, found = find()
dtypes = [name for name in ipc_rig.DTYPES
          if "--stand-in" in sys.argv or str(getattr(torch, name, None)) == f"torch.{name}"]


def make(attributes):
    wrapper = Wrapper.__new__(Wrapper)
    wrapper.__dict__.update(attributes)
    return wrapper


lines, wanted = [], []
for protocol in (4, 5):
    for _ in range(300):
        attributes, name = ipc_rig.wrapper(torch.Size, lambda n: getattr(torch, n), dtypes)
        data = pickle.dumps(make(attributes), protocol=protocol)
        lines.append(f"pickle {protocol} {data.hex()}")
        wanted.append((attributes, name, data))
large = 0
for (attributes, name, data), (r, again, text) in zip(wanted, ipc_rig.codec(lines)):
    check(r == 0, f"a wrapper that Python wrote, seed {ipc_rig.SEED}: {text}\n{data.hex()[:2000]}")
    check(text == ipc_rig.of_wrapper(attributes, name), f"what it holds: {text}")
    check(again == data.hex(), f"the same bytes: {data.hex()[:2000]}")
    loaded = pickle.loads(bytes.fromhex(again))
    check(type(loaded) is Wrapper and loaded.__dict__ == attributes, "Python loads it")
    check(list(loaded.__dict__) == list(attributes), "in the same order")
    check(type(loaded.shape) is type(attributes["shape"]), "with the same kind of shape")
    large += len(data) > 65536
check(large > 10, "some of more than a frame")
check({name for _, name, _ in wanted} == set(dtypes), "every dtype")

# Two tensors of a real torch, as far as a CPU has them.
if "--stand-in" not in sys.argv:
    base = torch.empty(4, 6, 8, dtype=torch.bfloat16)
    view = base[1:3, ::2]
    for tensor in (base, view):
        storage = tensor.storage()
        size = base.numel() * 2
        handle = (0, bytes(64), size, 0, b"/torch_1_2_3", 0, bytes(64), True)
        attributes = {"handle": handle, "dtype": tensor.dtype, "shape": tensor.shape,
                      "device_uuid": "x"}
        if tensor is view:
            attributes = {"handle": handle, "dtype": tensor.dtype, "shape": tuple(tensor.shape),
                          "stride": tensor.stride(), "storage_offset": tensor.storage_offset(),
                          "device_uuid": "x"}
        data = pickle.dumps(make(attributes))
        (r, again, text), = ipc_rig.codec([f"pickle {data[1]} {data.hex()}"])
        check((r, again) == (0, data.hex()), f"a tensor's attributes: {text}")
        check(text == ipc_rig.of_wrapper(attributes, "bfloat16"), f"what they are: {text}")
done(f"IPC wrappers, {found}")
