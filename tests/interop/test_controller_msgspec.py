#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Our codec against msgspec and LMCache's own message classes: random messages in all forms that are
allowed, their JSON, and damaged frames, of which the error texts must be the same."""
import errno
import json
import os
import random
import struct
import subprocess
import typing

import lmcache_peer

lmcache_peer.prepare()

import msgspec  # noqa: E402
from interop import check, done  # noqa: E402
from lmcache.v1.cache_controller import message as lm  # noqa: E402
from lmcache.v1.cache_controller.commands.base import HeartbeatCommand  # noqa: E402
from lmcache.v1.cache_controller.commands.full_sync import FullSyncCommand  # noqa: E402

SEED = int(os.environ.get("KVL_TEST_SEED", "20260212"))
rng = random.Random(SEED)
encode = msgspec.msgpack.encode
TEXTS = ["", "a", "inst_a", "LocalCPUBackend", "10.0.0.1:8200", "ä€😀", "x" * 31, "x" * 32,
         "x" * 255, "x" * 256, "\0", "\"\\\n"]
EDGES = [0, 1, 31, 32, 127, 128, 255, 256, 65535, 65536, 2**31, 2**32 - 1, 2**32, 2**63 - 1]
KEYS = EDGES + [2**63, 2**64 - 1] + [-e for e in EDGES if e] + [-2**63]
ids = {"key", "hashes", "keys", "tokens", "worker_ids", "missing_batches"}  # any 64 bits and sign


def number(name):
    if rng.random() < 0.3:
        return rng.randint(-2**63, 2**64 - 1 if name in ids else 2**63 - 1)
    return rng.choice(KEYS if name in ids else EDGES + [-e for e in EDGES])


def value(kind, name):
    """A random value of a type as Python annotates it."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Union and type(None) in args:
        others = [a for a in args if a is not type(None)]
        return None if rng.random() < 0.3 else value(others[0], name)
    if origin is typing.Union:
        return rng.choice([FullSyncCommand, HeartbeatCommand])(
            value(typing.Optional[str], name), rng.choice([None, {}, {"a": [1, None, "b", {}]}]))
    if origin is list:
        count = rng.choice([0, 1, 2, 15, 16, 40])
        return [value(args[0], name) for _ in range(count)]
    if origin is tuple:
        return tuple(value(a, name) for a in args)
    if origin is dict:
        return {value(args[0], name): value(args[1], name) for _ in range(rng.choice([0, 1, 3, 17]))}
    if kind is str:
        return rng.choice(TEXTS)
    if kind is bool:
        return rng.random() < 0.5
    if kind is int:
        return number(name)
    if kind is float:
        return rng.choice([0.0, 1.0, -0.5, 1e300, rng.random()])
    if kind is lm.OpType:
        return rng.choice(list(lm.OpType))
    return record(kind)


def record(cls):
    return cls(**{n: value(k, n) for n, k in typing.get_type_hints(cls).items()
                  if not n.startswith("__")})


def head(fixed, fixed_max, codes, number):
    """A head in any of the forms that hold it."""
    forms = [bytes([fixed | number])] if number <= fixed_max else []
    forms += [bytes([code]) + number.to_bytes(size, "big") for code, size in codes
              if number < 256**size]
    return rng.choice(forms)


def loose(item):
    """msgpack in forms that are not the smallest; of maps also in another order, with unknown keys
    and with values that come twice."""
    if isinstance(item, bool) or item is None:
        return encode(item)
    if isinstance(item, int):
        forms = [encode(item)]
        if 0 <= item:
            forms += [b"\xcf" + struct.pack(">Q", item)]
        if -2**63 <= item < 2**63:
            forms += [b"\xd3" + struct.pack(">q", item)]
        return rng.choice(forms)
    if isinstance(item, float):
        return encode(item)
    if isinstance(item, str):
        raw = item.encode()
        return head(0xa0, 31, [(0xd9, 1), (0xda, 2), (0xdb, 4)], len(raw)) + raw
    if isinstance(item, (list, tuple)):
        return (head(0x90, 15, [(0xdc, 2), (0xdd, 4)], len(item))
                + b"".join(map(loose, item)))
    pairs = [(loose(k), loose(v)) for k, v in item.items()]
    if any(k in item for k in ("type", "op_type", "command_type", "registration_time")):
        rng.shuffle(pairs)
        if rng.random() < 0.3:
            pairs.insert(rng.randrange(len(pairs) + 1),
                         (loose("extra"), loose([1, {"a": None}, "x" * 40, -5])))
        if rng.random() < 0.3:
            pairs.append(rng.choice(pairs))
    return (head(0x80, 15, [(0xde, 2), (0xdf, 4)], len(pairs))
            + b"".join(k + v for k, v in pairs))


def codec(frames):
    """What our codec makes of the frames: (errno, bytes)."""
    run = subprocess.run([os.environ["KVL_CONTROLLER_CODEC"]], text=True, stdout=subprocess.PIPE,
                         input="".join(f.hex() + "\n" for f in frames), timeout=100, check=True)
    rows = [line.partition(" ") for line in run.stdout.split("\n")[:-1]]
    check(len(rows) == len(frames), "an answer for each frame")
    return [(int(row[0]), bytes.fromhex(row[2])) for row in rows]


def judge(frame):
    """What msgspec makes of a frame: (errno, bytes)."""
    try:
        if frame[:1] == b"{":
            message = msgspec.convert(json.loads(frame), type=lm.Msg)
        else:
            message = msgspec.msgpack.decode(frame, type=lm.Msg)
        return 0, encode(message)
    except UnicodeDecodeError:
        return errno.EILSEQ, b""
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        return errno.EPROTO, str(error).encode()


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
            frame[at:at] = encode(rng.choice([None, 1, -7, 300, 2.5, "a", b"a", [], {}, True]))
        elif how == 4:
            frame[at] = rng.choice(b"\xc0\xc1\xc2\xc3\xc4\xc7\xca\xcb\xcc\xcf\xd0\xd3\xd4\xd9\xdc\xde")
        else:
            del frame[at:]
        if not frame:
            return b"\xc1"
    return bytes(frame)


def differs_on_purpose(frame, ours):
    """What we tell in another way than Python, or take where it does not."""
    if ours[0] == errno.EMSGSIZE:  # a number beyond 64 bits with sign
        return ours[1].startswith(b"Integer out of range") or ours[1].startswith(b"Nested")
    if b"HeartbeatRetMsg" in frame:  # unknown commands are kept, `args` are not looked into
        return ours[0] in (0, errno.EPROTO, errno.EILSEQ)
    return False


messages = [record(cls) for cls in lm.Msg.__args__ for _ in range(40)]
frames = [encode(message) for message in messages]
for frame, (r, again) in zip(frames, codec(frames)):
    check(r == 0 and again == frame, f"the same bytes, seed {SEED}: {frame.hex()}")

plain = [msgspec.to_builtins(message) for message in messages]
loosened = [loose(item) for item in plain]
for message, frame, (r, again) in zip(messages, loosened, codec(loosened)):
    check(msgspec.msgpack.decode(frame, type=lm.Msg) == message, "a fair frame")
    if not isinstance(message, lm.HeartbeatRetMsg) or not any(
            c.args is not None for c in message.commands):
        check(r == 0 and again == encode(message), f"the same message, seed {SEED}: {frame.hex()}")

twins = [json.dumps(item, ensure_ascii=rng.random() < 0.5).encode() for item in plain]
for frame, ours in zip(twins, codec(twins)):
    check(ours == judge(frame), f"the same from JSON, seed {SEED}: {frame!r}: {ours}")

damaged = [damage(frame) for frame in frames + loosened for _ in range(8)]
damaged = [frame for frame in damaged if frame[:1] != b"{"]  # JSON errors have our own words
seen = set()
for frame, ours in zip(damaged, codec(damaged)):
    theirs = judge(frame)
    same = ours == theirs or (ours[0] == theirs[0] == errno.EILSEQ)
    # our texts are terminated by what msgspec copies
    same = same or (b"\0" in theirs[1] and ours[0] == theirs[0] and ours[1][:7] == theirs[1][:7])
    check(same or differs_on_purpose(frame, ours),
          f"the same verdict, seed {SEED}: {frame.hex()}: ours {ours}, msgspec {theirs}")
    seen.add(theirs[1] if theirs[0] == errno.EPROTO else theirs[0])
check(len(seen) > 200, f"many kinds of errors, not {len(seen)}")
done("controller messages against msgspec")
