# SPDX-License-Identifier: Apache-2.0
"""What the tests of the IPC types share: ipc_codec, random wrappers, and values as ipc_text.h."""
import os
import random
import struct
import subprocess

from interop import check

SEED = int(os.environ.get("KVL_TEST_SEED", "20260128"))
rng = random.Random(SEED)

DTYPES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "float8_e4m3fn": 1,
          "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
          "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "bool": 1}
KINDS = {name: i + 1 for i, name in enumerate(
    ["INT", "INTS", "BOOL_OR_NIL", "BOOLS", "TEXT", "BYTES", "BYTES_BOOL", "BYTES_BOOLS", "REQUEST",
     "KEY", "KEYS", "WRAPPER", "KV_CACHE"])}
GENERATIONS = {"0": 1, "A": 2, "B": 3, "C": 4}


def codec(lines):
    """What our codec makes of the lines: a list of (errno, second word, rest)."""
    run = subprocess.run([os.environ["KVL_IPC_CODEC"]], text=True, stdout=subprocess.PIPE,
                         input="".join(line + "\n" for line in lines), timeout=200, check=True)
    rows = [line.split(" ", 2) + ["", ""] for line in run.stdout.split("\n")[:-1]]
    check(len(rows) == len(lines), "an answer for each line")
    return [(int(row[0]), row[1], row[2]) for row in rows]


# ---- wrappers

def handle_bytes(reach):
    """Handle bytes that can hold `reach` bytes."""
    choice = rng.randrange(6)
    if choice == 0:
        return rng.randbytes(64)
    if choice in (1, 2):
        return bytes([rng.choice([1, 2])]) + b"c" + rng.randbytes(64)
    if choice == 3:  # fabric
        count, each = rng.choice([1, 2, 10, 1100]), 64
    else:  # descriptors; some beyond the 64 KiB where pickles have no frames
        count, each = rng.choice([1, 2, 10, 50, 16377, 16378, 20000]), 4
    head = struct.pack("<i4sQQ", rng.randrange(1, 2**22), rng.randbytes(4),
                       max(1, -(-reach // count)), count)
    return bytes([rng.choice([1, 2])]) + b"e" + head + rng.randbytes(count * each)


def wrapper(make_size, make_dtype, dtypes):
    """The attributes of a random wrapper of any form, in the order of the class."""
    form = rng.choice(["pre", "A", "A", "A", "C", "C"])
    name = rng.choice(dtypes)
    shape = tuple(rng.choice([1, 2, 3, 16, 255, 256, 300]) for _ in range(rng.choice(range(7))))
    if rng.random() < 0.05:
        shape += (0,)
    elements = 1
    for dim in shape:
        elements *= dim
    size = elements * DTYPES[name]
    stride = [1] * len(shape)
    for i in reversed(range(len(shape) - 1)):
        stride[i] = max(1, stride[i + 1] * shape[i + 1])
    skipped = rng.choice([0, 1, 255, 65536, 2**31])
    if form == "C":
        size += (skipped + rng.choice([0, 1, 7])) * DTYPES[name]
    offset = rng.choice([0, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40])
    if rng.random() < 0.08:
        handle, shape, stride = (rng.choice([0, 7]), None, 0, 0, None, 0, None, None), (0,), [1]
        skipped = 0
    else:
        counter = f"/torch_{rng.randrange(10**6)}_{rng.randrange(2**32)}_{rng.randrange(99)}"
        handle = (rng.choice([0, 1, 255, 256, 65536, -1, 2**31 - 1, -2**31]),
                  handle_bytes(offset + size), size, offset, counter.encode(),
                  rng.choice([0, 255, 256, 9999]), rng.randbytes(64), rng.random() < 0.5)
    uuid = rng.choice(["d3b07384-d113-edec-49ea-a6238ad5ff00", "GPU-d3b07384", "", "\u00e4\u20ac"])
    attributes = {"handle": handle, "dtype": make_dtype(name),
                  "shape": shape if form == "C" else make_size(shape)}
    if form == "C":
        attributes.update(stride=tuple(stride), storage_offset=skipped)
    if form != "pre":
        attributes["device_uuid"] = uuid + ""
    return attributes, name


def of_ints(items):
    return "(" + ",".join(str(int(item)) for item in items) + ")"


def of_wrapper(attributes, name):
    device, handle, size, offset, counter, slot, event, sync = attributes["handle"]
    shape = attributes["shape"]

    def raw(item):
        return "none" if item is None else item.hex()

    out = (f"wrapper device={device} handle={raw(handle)} bytes={size} offset={offset} "
           f"counter={raw(counter)} slot={slot} event={raw(event)} "
           f"sync={'none' if sync is None else int(sync)} dtype={name} "
           f"shape={'' if type(shape) is tuple else 'size'}{of_ints(shape)}")
    if "stride" in attributes:
        out += f" stride={of_ints(attributes['stride'])}"
        out += f" storage_offset={attributes['storage_offset']}"
    if "device_uuid" in attributes:
        out += f" uuid={attributes['device_uuid'].encode().hex()}"
    return out
