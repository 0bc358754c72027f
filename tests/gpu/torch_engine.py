#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An engine whose KV cache are tensors of torch on a GPU, for test_gpu_torch: it tells of them as
LMCache's workers do, by a KVCache, the msgpack array of pickled CudaIPCWrapper.

Prints 'skip REASON', or 'kvcache N' and N bytes. Then answers lines on stdin:
fill SALT and check SALT, each with the blocks of all chunks in order: 'ok 0', 'ok WRONG_WORDS'.

Usage: torch_engine.py LAYERS BLOCKS BLOCK_TOKENS CHUNK_TOKENS
"""

import pickle
import struct
import sys
import types

HEADS, HEAD = 8, 128
TOKEN_WORDS = HEADS * HEAD * 2 // 8


def wrapper_class():
    """LMCache's own class, or one of the same name with the same attributes."""
    try:
        from lmcache.v1.multiprocess.custom_types import CudaIPCWrapper
        return CudaIPCWrapper
    except ImportError:
        pass
    import torch

    class CudaIPCWrapper:
        def __init__(self, tensor):
            self.handle = tensor.untyped_storage()._share_cuda_()
            self.dtype = tensor.dtype
            self.shape = tensor.shape
            self.device_uuid = str(torch.cuda.get_device_properties(tensor.device.index).uuid)

    name = ""
    for part in "lmcache.v1.multiprocess.custom_types".split("."):
        name = name + "." + part if name else part
        sys.modules.setdefault(name, types.ModuleType(name))
    CudaIPCWrapper.__module__ = name
    CudaIPCWrapper.__qualname__ = "CudaIPCWrapper"
    sys.modules[name].CudaIPCWrapper = CudaIPCWrapper
    return CudaIPCWrapper


def kvcache(tensors):
    wrapper = wrapper_class()
    out = bytearray(struct.pack(">BH", 0xdc, len(tensors)))
    for tensor in tensors:
        data = pickle.dumps(wrapper(tensor), protocol=4)
        out += struct.pack(">BIb", 0xc9, len(data), 1) + data
    return bytes(out)


class Cache:
    def __init__(self, torch, layers, blocks, block_tokens, chunk_tokens):
        self.torch, self.layers = torch, layers
        self.per_chunk = chunk_tokens // block_tokens
        self.tensors = [
            torch.zeros((2, blocks, block_tokens, HEADS, HEAD), dtype=torch.float16, device="cuda")
            for _ in range(layers)]
        self.words = chunk_tokens * TOKEN_WORDS

    def chunks(self, blocks, salt):
        """For each plane of each layer of each chunk: its blocks, and the words it should have."""
        torch = self.torch
        for chunk in range(len(blocks) // self.per_chunk):
            mine = torch.tensor(
                blocks[chunk * self.per_chunk:(chunk + 1) * self.per_chunk], device="cuda")
            for series in range(2 * self.layers):
                plane, layer = divmod(series, self.layers)
                first = salt + (chunk << 48) + (series << 32)
                words = torch.arange(self.words, dtype=torch.int64, device="cuda") + first
                yield self.tensors[layer][plane].view(torch.int64), mine, words

    def fill(self, salt, blocks):
        for plane, mine, words in self.chunks(blocks, salt):
            plane[mine] = words.view(plane[mine].shape)
        self.torch.cuda.synchronize()
        return 0

    def check(self, salt, blocks):
        self.torch.cuda.synchronize()
        return sum(int((plane[mine].view(-1) != words).sum())
                   for plane, mine, words in self.chunks(blocks, salt))


def main():
    try:
        import torch
    except ImportError as error:
        print("skip", error, flush=True)
        return
    if not torch.cuda.is_available():
        print("skip torch sees no GPU", flush=True)
        return
    cache = Cache(torch, *map(int, sys.argv[1:5]))
    data = kvcache(cache.tensors)
    sys.stdout.buffer.write(b"kvcache %d\n" % len(data) + data)
    sys.stdout.buffer.flush()
    for line in sys.stdin:
        word, salt, *blocks = line.split()
        wrong = getattr(cache, {"fill": "fill", "check": "check"}[word])(
            int(salt), list(map(int, blocks)))
        print("ok", wrong, flush=True)


if __name__ == "__main__":
    main()
