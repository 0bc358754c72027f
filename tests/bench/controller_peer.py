# SPDX-License-Identifier: Apache-2.0
# usage: controller_peer.py PULL_PORT REPLY_PORT
"""LMCache's own controller without its HTTP side, for the benchmark. Ends with its parent."""
import asyncio
import ctypes
import signal
import sys

from lmcache.v1.cache_controller.controller_manager import LMCacheControllerManager

ctypes.CDLL(None).prctl(1, signal.SIGKILL)
pull, reply = sys.argv[1:]
try:
    import uvloop  # as its web server takes it where it is installed
    run = uvloop.run
except ImportError:
    run = asyncio.run


async def main():
    manager = LMCacheControllerManager({"pull": f"127.0.0.1:{pull}", "reply": f"127.0.0.1:{reply}"},
                                       -1, 300)
    print(f"ready: controller pull 127.0.0.1:{pull} reply {reply}", flush=True)
    await manager.start_all()


run(main())
