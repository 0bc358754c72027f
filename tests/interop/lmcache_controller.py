#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""LMCache's own cache controller as a child: lmcache_controller.py PULL REPLY [HEARTBEAT]

Takes one JSON list per line, [what, ...], and answers with one line of JSON.
"""
import asyncio
import json
import sys

from lmcache.v1.cache_controller import message
from lmcache.v1.cache_controller.controller_manager import LMCacheControllerManager


async def answer(manager, what, *args):
    registry = manager.reg_controller.registry
    if what == "workers":
        return [[i.instance_id, i.worker_id, i.ip, i.port, i.peer_init_url]
                for i in registry.get_all_worker_infos_cached(0)]
    if what == "keys":
        return sorted(registry.get_worker_kv_keys(*args))
    if what == "gaps":
        return registry.get_seq_discontinuity_count()
    if what == "sync":
        worker = registry.get_worker(*args)
        info = worker.sync_info if worker is not None else None
        return info.state.name if info is not None else None
    kinds = {"clear": message.ClearMsg, "pin": message.PinMsg, "health": message.HealthMsg,
             "compress": message.CompressMsg}
    result = await manager.handle_orchestration_message(kinds[what](event_id="event", **args[0]))
    return {name: getattr(result, name) for name in result.__struct_fields__}


async def main():
    urls = {"pull": f"127.0.0.1:{sys.argv[1]}", "reply": f"127.0.0.1:{sys.argv[2]}",
            "heartbeat": f"127.0.0.1:{sys.argv[3]}" if len(sys.argv) > 3 else None}
    manager = LMCacheControllerManager(urls, -1, 300)
    running = asyncio.create_task(manager.start_all())
    loop = asyncio.get_running_loop()
    print(json.dumps("ready"), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            reply = await asyncio.wait_for(answer(manager, *json.loads(line)), 30)
        except Exception as e:
            reply = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(reply, default=str), flush=True)
    running.cancel()


asyncio.run(main())
