# SPDX-License-Identifier: Apache-2.0
# usage: vectors.py FOLDER HEADER
# The golden vectors as tables of C, with what they mean as ipc_text.c has it.
import hashlib
import json
import sys

folder, header = sys.argv[1:]


def load(name):
    with open(f"{folder}/{name}", encoding="utf-8") as file:
        return json.load(file)


def blob(name, row):
    with open(f"{folder}/{name}/{row['file']}", "rb") as file:
        data = file.read()
    assert hashlib.sha256(data).hexdigest() == row["sha256"], row["file"]
    return data


def text(item):
    return item.encode().hex()


def ints(items):
    return "(" + ",".join(map(str, items)) + ")"


def of_bytes(item):
    return "none" if item is None else item["hex"]


def of_wrapper(attributes):
    device, handle, size, offset, counter, slot, event, sync = attributes["handle"]["tuple"]
    shape = attributes["shape"]
    out = (f"wrapper device={device} handle={of_bytes(handle)} bytes={size} offset={offset} "
           f"counter={of_bytes(counter)} slot={slot} event={of_bytes(event)} "
           f"sync={'none' if sync is None else int(sync)} "
           f"dtype={attributes['dtype']['dtype'].removeprefix('torch.')} ")
    out += "shape=" + ("size" + ints(shape["torch.Size"]) if "torch.Size" in shape
                       else ints(shape["tuple"]))
    if "stride" in attributes:
        out += f" stride={ints(attributes['stride']['tuple'])}"
        out += f" storage_offset={attributes['storage_offset']}"
    if "device_uuid" in attributes:
        out += f" uuid={text(attributes['device_uuid'])}"
    return out


def of_key(key):
    worker = "nil" if key["worker_id"] is None else key["worker_id"]
    chunk = "nil" if key["chunk_hash"] is None else key["chunk_hash"]["hex"]
    out = f"key model={text(key['model_name'])} world={key['world_size']} worker={worker}"
    out += f" hash={chunk}"
    if key["generation"] in "BC":
        tokens = "nil" if key["token_ids"] is None else ints(key["token_ids"])
        request = "nil" if key["request_id"] is None else text(key["request_id"])
        out += f" tokens={tokens} start={key['start']} end={key['end']} request={request}"
    return out


def of_bools(items):
    return "(" + ",".join(str(int(item)) for item in items) + ")"


def of_value(kind, value):
    return {
        "INT": str,
        "REQUEST": lambda v: v.partition("=")[2] if isinstance(v, str) else str(v),
        "INTS": ints,
        "BOOL_OR_NIL": lambda v: "nil" if v is None else str(int(v)),
        "BOOLS": of_bools,
        "TEXT": lambda v: "x" + text(v),
        "BYTES": lambda v: "x" + v["hex"],
        "BYTES_BOOL": lambda v: f"x{v[0]['hex']},{int(v[1])}",
        "KEY": of_key,
        "KEYS": lambda v: "(" + ",".join(map(of_key, v)) + ")",
    }[kind](value)


def quoted(item):
    return "NULL" if item is None else f"\"{item}\""


def table(declaration, rows):
    lines = "".join(f"    {{{', '.join(row)}}},\n" for row in rows)
    return f"{declaration} = {{\n{lines}}};\n"


# ---- pickles: name, hex, stage that refuses or NULL, text or NULL, whether BINGET is in it

pickles = {}  # digest -> (text, check)
rows = []
for name, row in load("pickle/index.json")["vectors"].items():
    data = blob("pickle", row)
    stage = "parse" if row["parse"] == "reject" else "check" if row["check"] == "reject" else None
    meaning = of_wrapper(row["attributes"]) if row["parse"] == "accept" else None
    again = row["parse"] == "accept" and not {"BINGET", "LONG_BINGET"} & set(row["opcodes"])
    pickles[row["sha256"]] = (meaning, stage)
    rows.append((quoted(name), quoted(data.hex()), quoted(stage), quoted(meaning), str(int(again)),
                 str(row["protocol"])))
for name, row in load("hostile/index.json")["vectors"].items():
    data = blob("hostile", row)
    stage = None if row["expect"] == "accept" else row["stage"]
    rows.append((quoted(name), quoted(data.hex()), quoted(stage), "NULL", "0", "0"))
out = ["#include <kvlane/ipc.h>\n"]
out.append(table("static const struct { const char *name; const char *hex; const char *stage; "
                 "const char *text; int again; uint32_t protocol; } vector_pickles[]", rows))

# ---- frames: name, generation, kind, hex, text; NULL = refused


def frame(name, generation, kind, data, meaning):
    return (quoted(name), f"KVL_IPC_GENERATION_{generation}", f"KVL_IPC_{kind}",
            quoted(data if isinstance(data, str) else data.hex()), quoted(meaning))


def of_cache(digests):
    known = [pickles[digest] for digest in digests]
    if any(stage for _, stage in known):
        return None
    return "(" + ",".join(meaning for meaning, _ in known) + ")"


rows = []
for name, row in load("msgpack/index.json")["vectors"].items():
    data, value = blob("msgpack", row), row["value"]
    if value == "CudaIPCWrapper":
        rows.append(frame(name, "A", "WRAPPER", data, pickles[row["ext_payload_sha256"][0]][0]))
    elif isinstance(value, str):
        rows.append(frame(name, "A", "KV_CACHE", data, of_cache(row["ext_payload_sha256"])))
    elif isinstance(value, list):
        rows.append(frame(name, value[0]["generation"], "KEYS", data, of_value("KEYS", value)))
    else:
        rows.append(frame(name, value["generation"], "KEY", data, of_key(value)))

payloads = {
    "REGISTER_KV_CACHE": (["INT", "KV_CACHE"], None),
    "STORE": (["KEYS", "INT", "INTS", "BYTES"], "BYTES_BOOL"),
    "LOOKUP": (["KEYS", "BOOL_OR_NIL"], "BOOLS"),
    "CLEAR": ([], None),
    "GET_CHUNK_SIZE": ([], "INT"),
    "NOOP": ([], "TEXT"),
    "END_SESSION": (["TEXT"], None),
}
for name, row in load("msgpack/frames.json")["frames"].items():
    generation = row["generation"]
    kinds, answer = payloads[row["request_type"]]
    if generation == "B" and row["request_type"] == "LOOKUP":
        kinds, answer = ["KEYS"], "INT"
    number = "REQUEST" if generation == "A" else "INT"
    for side in ("request", "response"):
        uid, kind, *rest = row[f"{side}_frames"]
        rows.append(frame(name, generation, "INT", uid, str(row["uid"])))
        rows.append(frame(name, generation, number, kind, str(row["value"])))
        if side == "response":
            kinds, values = ([answer] if answer else []), [row["response"]] if answer else []
        else:
            values = row["payloads"]
        assert len(rest) == len(kinds) == len(values), name
        for data, what, value in zip(rest, kinds, values):
            if what == "KV_CACHE":
                digests = [hashlib.sha256(bytes.fromhex(data)[5:]).hexdigest()]
                rows.append(frame(name, generation, what, data, of_cache(digests)))
            else:
                rows.append(frame(name, generation, what, data, of_value(what, value)))

types = {
    "IPCCacheEngineKey, generation A": "KEY",
    "CudaIPCWrapper": "WRAPPER",
    "request type, generation A": "REQUEST",
    "int": "INT",
    "tuple of bytes and bool": "BYTES_BOOL",
    "bool or nil": "BOOL_OR_NIL",
}
left_out = []
for name, row in load("msgpack/decode_behaviour.json")["cases"].items():
    if row.get("type") not in types:
        left_out.append(name)
        continue
    kind = types[row["type"]]
    meaning = of_value(kind, row["value"]) if row["ok"] else None
    rows.append(frame(name, "A", kind, row["hex"], meaning))
# A timestamp where anything goes (there is no such place), and what only Python's encoder can do.
assert left_out == ["d45_ts_ext", "e01_encode_2pow64", "e02_encode_no_type_check"], left_out
rows += [frame("d45_ts_ext", "A", kind, load("msgpack/decode_behaviour.json")["cases"]
               ["d45_ts_ext"]["hex"], None)
         for kind in ("INT", "INTS", "BOOL_OR_NIL", "BOOLS", "TEXT", "BYTES", "BYTES_BOOL",
                      "BYTES_BOOLS", "REQUEST", "KEY", "KEYS", "WRAPPER", "KV_CACHE")]
out.append(table("static const struct { const char *name; uint32_t generation; uint32_t kind; "
                 "const char *hex; const char *text; } vector_frames[]", rows))
with open(header, "w", encoding="utf-8") as file:
    file.write("\n".join(out))
