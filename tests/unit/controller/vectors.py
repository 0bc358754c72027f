# SPDX-License-Identifier: Apache-2.0
# usage: vectors.py FOLDER HEADER
# The golden vectors as tables of C.
import json
import sys

folder, header = sys.argv[1:]
with open(f"{folder}/messages.json", encoding="utf-8") as file:
    messages = json.load(file)
with open(f"{folder}/hash_chains.json", encoding="utf-8") as file:
    chains = json.load(file)
primitives = chains["primitives"]


def signed(number):
    return f"(int64_t)UINT64_C({number % 2**64:#x})"


def chunk_id(number):
    return f"{{UINT64_C({number % 2**64:#x}), {int(number < 0)}, 0}}"


def sip(name):
    return {"1-3": "CONTROLLER_SIP13", "2-4": "CONTROLLER_SIP24"}[name]


def table(declaration, rows):
    return f"{declaration} = {{\n" + "".join(f"    {{{row}}},\n" for row in rows) + "};\n"


out = ["#include \"controller_hash.h\"\n"]
out.append(table(
    "static const struct { const char *name; const char *hex; const char *json; } vector_messages[]",
    (f"{json.dumps(row['name'])}, \"{row['hex']}\",\n     {json.dumps(json.dumps(row['fields']))}"
     for row in messages)))
out.append(table(
    "static const struct { const char *name; int64_t none_hash; enum controller_extra extra; "
    "int has_seed; enum controller_sip sip; uint32_t seed; int64_t hashes[3]; } vector_chains[]",
    (f"\"{row['name']}\", {signed(row['none_hash'])}, "
     + ("CONTROLLER_EXTRA_NONE" if row["extra"] == "none" else "CONTROLLER_EXTRA_EMPTY")
     + f", {int(row['siphash'] is not None)}, {sip(row['siphash'] or '1-3')}, "
     + f"{row['hash_seed'] or 0}, {{" + ", ".join(map(signed, row["hashes"])) + "}"
     for row in chains["chains"])))
out.append(table(
    "static const struct { struct kvl_chunk_id number; int64_t hash; } vector_ints[]",
    (f"{chunk_id(row['value'])}, {signed(row['hash'])}" for row in primitives["int_hash"])))
out.append(table(
    "static const struct { enum controller_sip sip; uint32_t seed; const char *text; int64_t hash; }"
    " vector_texts[]",
    (f"{sip(row['siphash'])}, {row['hash_seed']}u, {json.dumps(row['text'])}, "
     + signed(row["hash"]) for row in primitives["string_hash"])))
out.append(table(
    "static const struct { uint32_t seed; uint64_t key[2]; } vector_keys[]",
    (f"{row['hash_seed']}u, {{{row['k0']:#x}u, {row['k1']:#x}u}}"
     for row in primitives["siphash_key"])))
out.append(table(
    "static const struct { uint32_t count; struct kvl_chunk_id numbers[8]; int64_t hash; }"
    " vector_tuples[]",
    (f"{len(row['values'])}, {{" + (", ".join(map(chunk_id, row["values"])) or "{0, 0, 0}")
     + f"}}, {signed(row['hash'])}" for row in primitives["int_tuple_hash"])))
with open(header, "w", encoding="utf-8") as file:
    file.write("\n".join(out))
