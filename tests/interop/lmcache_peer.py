#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""LMCache as it is, made importable on a small machine.

LMCache imports more of torch and of the rest than its remote connector uses. Names that an older
torch lacks are filled in with types no test uses; nothing of LMCache itself is touched.

    lmcache_peer.py check               exit 0 when it can be imported, else 77 and the reason
    lmcache_peer.py server HOST PORT    runs `python -m lmcache.v1.server HOST PORT`
"""
import os
import runpy
import sys
import warnings

os.environ.setdefault("LMCACHE_TRACK_USAGE", "false")
os.environ.setdefault("LMCACHE_LOG_LEVEL", "ERROR")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")
warnings.filterwarnings("ignore")

SKIP = 77


def prepare():
    """Imports torch; ends the process with 77 when something is missing."""
    try:
        import torch
    except ImportError as error:
        skip(f"torch cannot be imported: {error}")
    spare = ["quint8", "qint8", "qint32", "quint4x2", "quint2x4", "complex32", "complex64"]
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
                 "uint16", "uint32", "uint64"):
        if not hasattr(torch, name):
            setattr(torch, name, getattr(torch, spare.pop(0)))
    try:
        import lmcache.v1.protocol  # noqa: F401
    except ImportError as error:
        skip(f"lmcache cannot be imported: {error}; make it with: ./run venv")
    return torch


def skip(reason):
    print(reason)
    sys.exit(SKIP)


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1] == "check":
        prepare()
    elif len(sys.argv) == 4 and sys.argv[1] == "server":
        prepare()
        sys.argv = ["lmcache.v1.server"] + sys.argv[2:]
        runpy.run_module("lmcache.v1.server", run_name="__main__")
    else:
        sys.exit(__doc__)
