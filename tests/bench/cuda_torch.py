#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""torch's own CUDA IPC, for bench_cuda_ipc: one process has chunks in the memory of a GPU and hands
them out over a torch queue, another takes them and copies them.

Usage: cuda_torch.py BYTES CHUNKS. Prints 'ready NAME', or 'skip REASON' and ends. Then for each
number N on stdin it brings over N chunks of BYTES bytes and answers when the last byte is there. For
'check' it looks whether the right ones have come. What favours torch: one tensor stays open all the
time, so the mapping is never closed, and chunks go to memory in one piece, not to pages.
"""

import sys


def serve(bytes_each, count, requests, answers):
    """The process whose memory it is."""
    import torch

    chunks = [torch.full((bytes_each,), i, dtype=torch.uint8, device="cuda") for i in range(count)]
    torch.cuda.synchronize()
    while (wanted := requests.get()) > 0:
        for i in range(wanted):
            answers.put(chunks[i % count])


def measure(bytes_each, count):
    import torch
    import torch.multiprocessing as multiprocessing

    context = multiprocessing.get_context("spawn")
    requests, answers = context.Queue(), context.Queue()
    peer = context.Process(target=serve, args=(bytes_each, count, requests, answers), daemon=True)
    peer.start()
    own = [torch.empty(bytes_each, dtype=torch.uint8, device="cuda") for _ in range(count)]
    requests.put(1)
    kept = answers.get()
    print("ready torch", torch.__version__, flush=True)
    for line in sys.stdin:
        if line == "check\n":
            right = all(int(own[i].min()) == int(own[i].max()) == i for i in range(count))
            print("right" if right else "wrong", flush=True)
            continue
        wanted = int(line)
        requests.put(wanted)
        for i in range(wanted):
            chunk = answers.get()
            own[i % count].copy_(chunk)
            del chunk
        torch.cuda.synchronize()
        print("done", flush=True)
    del kept
    requests.put(0)
    peer.join(10)


def main():
    try:
        import torch
    except ImportError as error:
        print("skip", error, flush=True)
        return
    if not torch.cuda.is_available():
        print("skip torch sees no GPU", flush=True)
        return
    measure(int(sys.argv[1]), int(sys.argv[2]))


if __name__ == "__main__":
    main()
