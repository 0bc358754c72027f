#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Our frames against msgspec with LMCache's own encoders and classes: random keys and payloads in
all forms that are allowed, damaged frames (of which the verdicts must agree), the order of keys,
and the storage keys they stand for. Only what this test has made itself is ever unpickled."""
import errno
import struct
import typing

import lmcache_peer

torch = lmcache_peer.prepare()

import msgspec  # noqa: E402
import ipc_rig  # noqa: E402
from interop import check, done  # noqa: E402
from ipc_rig import GENERATIONS, KINDS, codec, rng  # noqa: E402

try:
    from lmcache.v1.multiprocess import custom_types as lm
except ImportError as error:
    lmcache_peer.skip(f"this LMCache has no multiprocess mode: {error}")

Key = lm.IPCCacheEngineKey
EDGES = [0, 1, 31, 32, 127, 128, 255, 256, 65535, 65536, 2**31, 2**32 - 1, 2**32, 2**63 - 1]
WIDE = EDGES + [2**63, 2**64 - 1] + [-e for e in EDGES if e] + [-2**63]
TEXTS = ["", "m", "x" * 31, "x" * 32, "ä€😀", "x" * 255, "x" * 256, "x" * 65536, "\0"]
HASHES = [b"", b"\x01\x02", bytes(32), b"x" * 255, b"x" * 256, b"x" * 65536]


def key():
    return Key(rng.choice(TEXTS), rng.choice(WIDE), rng.choice(WIDE + [None] * 8),
               rng.choice(HASHES))


def of_key(item):
    worker = "nil" if item.worker_id is None else item.worker_id
    return (f"key model={item.model_name.encode().hex()} world={item.world_size} worker={worker} "
            f"hash={item.chunk_hash.hex()}")


def of_list(items):
    return "(" + ",".join(items) + ")"


def of_bools(items):
    return of_list(str(int(item)) for item in items)


def ints():
    fitting = [e for e in WIDE if e < 2**63]
    return [rng.choice(fitting) for _ in range(rng.choice([0, 1, 15, 16, 40]))]


def bools():
    return [rng.random() < 0.5 for _ in range(rng.choice([0, 1, 15, 16, 40]))]


def blob():
    return rng.choice(HASHES + [rng.randbytes(64)])


# kind -> (Python's type, a random value, its text)
PAYLOADS = {
    "INT": (int, lambda: rng.choice(WIDE), str),
    "INTS": (list[int], ints, lambda v: of_list(map(str, v))),
    "BOOL_OR_NIL": (typing.Optional[bool], lambda: rng.choice([True, False, None]),
                    lambda v: "nil" if v is None else str(int(v))),
    "BOOLS": (list[bool], bools, of_bools),
    "TEXT": (str, lambda: rng.choice(TEXTS), lambda v: "x" + v.encode().hex()),
    "BYTES": (bytes, blob, lambda v: "x" + v.hex()),
    "BYTES_BOOL": (tuple[bytes, bool], lambda: (blob(), rng.random() < 0.5),
                   lambda v: f"x{v[0].hex()},{int(v[1])}"),
    "BYTES_BOOLS": (tuple[bytes, list[bool]], lambda: (blob(), bools()),
                    lambda v: f"x{v[0].hex()},{of_bools(v[1])}"),
    "KEY": (Key, key, of_key),
    "KEYS": (list[Key], lambda: [key() for _ in range(rng.choice([0, 1, 3, 16]))],
             lambda v: of_list(map(of_key, v))),
}


def head(fixed, fixed_max, codes, number):
    forms = [bytes([fixed | number])] if number <= fixed_max else []
    forms += [bytes([code]) + number.to_bytes(size, "big") for code, size in codes
              if number < 256**size]
    return rng.choice(forms)


def loose(item):
    """msgpack in forms that are not the smallest; keys also in another order, with unknown fields
    and with fields that come twice."""
    if isinstance(item, bool) or item is None:
        return msgspec.msgpack.encode(item)
    if isinstance(item, int):
        forms = [msgspec.msgpack.encode(item)]
        if item >= 0:
            forms += [b"\xcf" + struct.pack(">Q", item)]
        if -2**63 <= item < 2**63:
            forms += [b"\xd3" + struct.pack(">q", item)]
        return rng.choice(forms)
    if isinstance(item, str):
        raw = item.encode()
        return head(0xa0, 31, [(0xd9, 1), (0xda, 2), (0xdb, 4)], len(raw)) + raw
    if isinstance(item, bytes):
        return head(0, -1, [(0xc4, 1), (0xc5, 2), (0xc6, 4)], len(item)) + item
    if isinstance(item, (list, tuple)):
        return head(0x90, 15, [(0xdc, 2), (0xdd, 4)], len(item)) + b"".join(map(loose, item))
    pairs = [(loose(n), loose(getattr(item, n))) for n in Key.__dataclass_fields__]
    rng.shuffle(pairs)
    if rng.random() < 0.3:
        pairs.append((loose("extra"), msgspec.msgpack.encode([1, {"a": None}, 2.5, b"x"])))
    if rng.random() < 0.3:
        pairs.insert(0, rng.choice(pairs))
    return (head(0x80, 15, [(0xde, 2), (0xdf, 4)], len(pairs))
            + b"".join(k + v for k, v in pairs))


def damage(frame):
    frame = bytearray(frame)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(len(frame))
        how = rng.randrange(6)
        if how == 0:
            frame[at] = rng.randrange(256)
        elif how == 1:
            frame[at] ^= 1 << rng.randrange(8)
        elif how == 2:
            del frame[at:at + rng.choice([1, 1, 2, 9])]
        elif how == 3:
            frame[at:at] = msgspec.msgpack.encode(
                rng.choice([None, 1, -7, 300, 2.5, "a", b"a", [], {}, True]))
        elif how == 4:
            frame[at] = rng.choice(bytes.fromhex("c0c1c2c3c4c7cacbcccfd0d3d4d9dcde"))
        else:
            del frame[at:]
        if not frame:
            return b"\xc1"
    return bytes(frame)


def line(kind, frame):
    return f"frame {KINDS[kind]} {GENERATIONS['A']} {frame.hex()}"


# ---- what LMCache writes, and what it would read

frames = []
for kind, (annotated, make, text) in PAYLOADS.items():
    encoder = lm.get_customized_encoder(annotated)
    for _ in range(60):
        value = make()
        frames.append((kind, value, encoder.encode(value)))
answers = codec([line(k, f) for k, _, f in frames])
for (kind, value, frame), (r, again, text) in zip(frames, answers):
    check(r == 0 and again == frame.hex(), f"the same, seed {ipc_rig.SEED}: {frame.hex()[:500]}")
    check(text == PAYLOADS[kind][2](value), f"the same value: {text[:500]}")

loosened = [(kind, value, loose(value)) for kind, value, _ in frames]
for (kind, value, frame), (r, again, _) in zip(loosened,
                                               codec([line(k, f) for k, _, f in loosened])):
    decoder = lm.get_customized_decoder(PAYLOADS[kind][0])
    check(decoder.decode(frame) == value, "a fair frame")
    check(r == 0 and decoder.decode(bytes.fromhex(again)) == value,
          f"the same value, seed {ipc_rig.SEED}: {frame.hex()[:500]}")

# ---- damaged frames

def differs_on_purpose(kind, frame, r):
    """What we refuse where Python does not."""
    if kind == "INTS":
        return r == errno.ERANGE  # beyond 63 bits no block has a number
    # names of fields that are not UTF-8: Python passes over them unread
    return kind in ("KEY", "KEYS") and r == errno.EPROTO and not is_text(frame)


def is_text(frame):
    """Whether all texts are, also those of names: msgspec checks when it makes objects of them."""
    try:
        msgspec.msgpack.decode(frame)
        return True
    except (UnicodeDecodeError, msgspec.DecodeError, TypeError, ValueError):
        return False


short = [(kind, frame) for kind, _, frame in frames + loosened if len(frame) < 2000]
damaged = [(kind, damage(frame)) for kind, frame in short for _ in range(12)]
refused = 0
for (kind, frame), (r, again, text) in zip(damaged, codec([line(k, f) for k, f in damaged])):
    decoder = lm.get_customized_decoder(PAYLOADS[kind][0])
    try:
        theirs = decoder.decode(frame)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, TypeError):
        check(r != 0, f"refused, seed {ipc_rig.SEED}: {kind} {frame.hex()}: {text}")
        refused += 1
        continue
    if r == 0:
        check(decoder.decode(bytes.fromhex(again)) == theirs, f"the same: {kind} {frame.hex()}")
    else:
        check(differs_on_purpose(kind, frame, r),
              f"taken, seed {ipc_rig.SEED}: {kind} {frame.hex()}: {text}")
check(refused > 1000 and len(damaged) - refused > 500, "both verdicts are common")

# ---- KV caches: LMCache's class and its extension

dtypes = [name for name in ipc_rig.DTYPES if str(getattr(torch, name, None)) == f"torch.{name}"]
Cache = lm.KVCache
caches = []
while len(caches) < 40:
    layers, texts = [], []
    for _ in range(rng.choice([0, 1, 2, 5, 16])):
        attributes = {}
        while "device_uuid" not in attributes:
            attributes, name = ipc_rig.wrapper(torch.Size, lambda n: getattr(torch, n), dtypes)
        layer = lm.CudaIPCWrapper.__new__(lm.CudaIPCWrapper)
        layer.__dict__.update(attributes)
        layers.append(layer)
        texts.append(ipc_rig.of_wrapper(attributes, name))
    caches.append((layers, of_list(texts), lm.get_customized_encoder(Cache).encode(layers)))
answers = codec([line("KV_CACHE", frame) for _, _, frame in caches])
for (layers, text, frame), (r, again, ours) in zip(caches, answers):
    check((r, again) == (0, frame.hex()), f"a KV cache, seed {ipc_rig.SEED}: {ours[:500]}")
    check(ours == text, "what it holds")
    theirs = lm.get_customized_decoder(Cache).decode(bytes.fromhex(again))
    check(theirs == layers, "LMCache reads it")

# ---- the order of keys, and what they stand for

few = [Key(model, world, worker, chunk) for model in ("", "a", "b", "😀", "\uffff")
       for world in (-1, 0, 2, 2**64 - 1) for worker in (None, -2**63, 0, 2**63)
       for chunk in (b"", b"\x00", b"\x00\x01", b"\xff")]
pairs = [(rng.choice(few), rng.choice(few)) for _ in range(3000)] + [(k, k) for k in few]
# also those that differ in one field
for a in few:
    b = Key(a.model_name, a.world_size, rng.choice([a.worker_id, None, 1]),
            rng.choice([a.chunk_hash, b"\x01"]))
    pairs.append((a, b))
encode = msgspec.msgpack.encode
lines = [f"order {GENERATIONS['A']} {encode(a).hex()} {encode(b).hex()}" for a, b in pairs]
for (a, b), (r, compared, equal_hash) in zip(pairs, codec(lines)):
    try:
        theirs = (a > b) - (a < b)
    except TypeError:
        theirs = 2
    check((r, int(compared)) == (0, theirs), f"the order of {a} and {b}: {compared}")
    check((equal_hash == "1") == (a == b), f"the hash of {a} and {b}")

lists = [[Key("m", world, rng.choice([None, 0, world - 1]), bytes([i])) for i in range(count)]
         for world in (1, 2, 8) for count in (1, 2, 5)]
for keys, (r, first, rest) in zip(lists, codec([f"expand {encode(k).hex()}" for k in lists])):
    theirs = ";".join(f"{k.world_size} {k.worker_id} {k.model_name.encode().hex()} "
                      f"{k.chunk_hash.hex()}" for k in lm.ipc_keys_to_storage_keys(keys))
    check(r == 0 and f"{first} {rest}" == theirs, f"storage keys of {keys}: {first} {rest}")
mixed = [Key("m", 1, 0, b""), Key("m", 2, 0, b"")]
check(codec([f"expand {encode(mixed).hex()}"])[0][0] == errno.EBADMSG, "world sizes that differ")
for number in (0, 1, 100, 2**32 - 1):
    check(Key.IntHash2Bytes(number) == number.to_bytes(4, "big"), "hashes of ints are four bytes")
done("IPC frames against LMCache's encoders")
