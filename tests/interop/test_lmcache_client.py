#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""LMCache's own LMCServerConnector, unmodified, against `kvlane serve`."""
import asyncio
import types

import lmcache_peer

torch = lmcache_peer.prepare()

import interop  # noqa: E402
from interop import check, kvlane, payload  # noqa: E402
from lmcache.utils import CacheEngineKey, LayerCacheEngineKey  # noqa: E402
from lmcache.v1.memory_management import (  # noqa: E402
    MemoryFormat, MemoryObjMetadata, TensorMemoryObj)
from lmcache.v1.metadata import LMCacheMetadata  # noqa: E402
from lmcache.v1.storage_backend.connector import base_connector  # noqa: E402
from lmcache.v1.storage_backend.connector.lm_connector import LMCServerConnector  # noqa: E402



def bytes_of(shape, dtype):
    return shape.numel() * torch.empty(0, dtype=dtype).element_size()


if not hasattr(torch.float16, "itemsize"):
    # an older torch; both are beside the connector, which sends what it is given
    base_connector.get_size_bytes = lambda shapes, dtypes: sum(map(bytes_of, shapes, dtypes))
    MemoryObjMetadata.get_size = lambda self: bytes_of(self.shape, self.dtype)


class Memory:
    """Stands for LocalCPUBackend, whose allocator wants CUDA: memory objects of plain tensors."""

    def __init__(self):
        self.config = types.SimpleNamespace(extra_config=None, use_layerwise=False)
        self.metadata = LMCacheMetadata(
            model_name="m", world_size=1, local_world_size=1, worker_id=0, local_worker_id=0,
            kv_dtype=torch.float16, kv_shape=(2, 2, 256, 2, 64))

    def allocate(self, shape, dtype, fmt, **_):
        raw = torch.empty(bytes_of(shape, dtype), dtype=torch.uint8)
        return TensorMemoryObj(
            raw, MemoryObjMetadata(shape, dtype, 0, raw.numel(), 1, 0, fmt), None)


def filled(memory, shape, dtype, fmt, seed):
    """A memory object whose bytes are those of payload()."""
    memory_object = memory.allocate(torch.Size(shape), dtype, fmt)
    data = bytearray(payload(memory_object.raw_data.numel(), seed))
    memory_object.raw_data.copy_(torch.frombuffer(data, dtype=torch.uint8))
    return memory_object


def same(got, put):
    return (got is not None and bytes(got.byte_array) == bytes(put.byte_array)
            and got.get_shape() == put.get_shape() and got.get_dtype() == put.get_dtype()
            and got.get_memory_format() == put.get_memory_format())


# 64 KiB to 5 MiB, the formats and types that engines write
CHUNKS = [
    ([2, 4, 256, 128], torch.float16, MemoryFormat.KV_2LTD),
    ([2, 8, 256, 128], torch.bfloat16, MemoryFormat.KV_2LTD),
    ([2, 5, 256, 512], torch.float32, MemoryFormat.KV_2LTD),
    ([1, 16, 256, 576], torch.bfloat16, MemoryFormat.KV_MLA_FMT),
    ([2, 2, 64, 256], torch.uint8, MemoryFormat.KV_2LTD),
    ([2, 3, 33, 7], torch.float64, MemoryFormat.KV_2LTD),
]
# hashes as LMCache writes them: signed and sha256
HASHES = [0x1F, -0x5D1B8DE6DA1B6D09, 2**255 + 12345, 0, -1]


async def round_trips(connector, memory):
    for i, (shape, dtype, fmt) in enumerate(CHUNKS):
        key = CacheEngineKey(f"Qwen/Qwen3-{i}B", 1, 0, HASHES[i % len(HASHES)], dtype)
        put = filled(memory, shape, dtype, fmt, i)
        check(not await connector.exists(key), f"{key.to_string()} is not there yet")
        check(await connector.get(key) is None, "a get of what is not there is a miss")
        await connector.put(key, put)
        check(await connector.exists(key), f"{key.to_string()} is there")
        check(same(await connector.get(key), put), f"{key.to_string()} comes back as it was")


async def overwrite(connector, memory):
    key = CacheEngineKey("m", 1, 0, -7, torch.bfloat16)
    for seed in (1, 2):
        put = filled(memory, [2, seed, 256, 128], torch.bfloat16, MemoryFormat.KV_2LTD, seed)
        await connector.put(key, put)
        check(same(await connector.get(key), put), f"version {seed} of a chunk")


async def layers(connector, memory):
    """Layer keys; their 3-D shapes, where this version of LMCache can write them."""
    key = LayerCacheEngineKey("m", 1, 0, 99, torch.bfloat16, None, 3)
    put = filled(memory, [2, 1, 256, 128], torch.bfloat16, MemoryFormat.KV_2TD, 3)
    await connector.put(key, put)
    check(same(await connector.get(key), put), "a layer key")
    put = filled(memory, [256, 2, 128], torch.bfloat16, MemoryFormat.KV_T2D, 4)
    try:
        await connector.put(key, put)
    except AssertionError:
        print("3-D shapes: this LMCache refuses them before sending, not tested")
        return
    check(same(await connector.get(key), put), "a 3-D chunk")


async def tags(connector, memory):
    key = CacheEngineKey("m", 2, 1, 5, torch.float16, {"lmcache.tag.user": "u1"})
    put = filled(memory, [2, 2, 16, 64], torch.float16, MemoryFormat.KV_2LTD, 5)
    await connector.put(key, put)
    check(await connector.exists(key), "a tagged key")
    other = CacheEngineKey("m", 2, 1, 5, torch.float16, {"lmcache.tag.user": "u2"})
    check(not await connector.exists(other), "the same key with another tag")


async def both_ways(connector, memory, port):
    """What LMCache stored, our executable fetches, and the other way round."""
    key = CacheEngineKey("m", 1, 0, -255, torch.float16)
    put = filled(memory, [2, 4, 256, 128], torch.float16, MemoryFormat.KV_2LTD, 9)
    url = f"lm://127.0.0.1:{port}"
    await connector.put(key, put)
    check(await connector.exists(key), "the chunk is confirmed")
    code, data = kvlane("get", "--server", url, "--quiet", key.to_string())
    check(code == 0 and data == bytes(put.byte_array), "kvlane get of LMCache's chunk")
    code, _ = kvlane("put", "--server", url, "--fmt", "1", "--dtype", "2", "--shape",
                     "2,4,256,128", key.to_string(), "-", data=data[::-1])
    check(code == 0, "kvlane put over LMCache's chunk")
    got = await connector.get(key)
    check(got is not None and bytes(got.byte_array) == data[::-1], "LMCache gets our chunk")
    check(got.get_shape() == put.get_shape(), "with its shape")


async def run(port):
    memory = Memory()
    connector = LMCServerConnector("127.0.0.1", port, asyncio.get_running_loop(), memory)
    await round_trips(connector, memory)
    await overwrite(connector, memory)
    await layers(connector, memory)
    await tags(connector, memory)
    await both_ways(connector, memory, port)
    await connector.close()


server, server_port = interop.serve_kvlane()
asyncio.run(run(server_port))
check(interop.stop(server) == 0, "kvlane serve ends with 0")
interop.done("LMCServerConnector against kvlane serve")
