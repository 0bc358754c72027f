# SPDX-License-Identifier: Apache-2.0
"""What the interop tests share: servers as children, the executable, a count of what was checked."""
import os
import signal
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
KVLANE = os.environ.get("KVL_PROGRAM", "kvlane")
checks = 0


def check(good, what):
    """Ends the test when it is not so."""
    global checks
    checks += 1
    if not good:
        raise SystemExit(f"FAILED: {what}")


def payload(size, seed):
    """Bytes that differ from seed to seed and from place to place."""
    word = (seed * 2654435761 + 1).to_bytes(8, "little")
    return b"".join(((int.from_bytes(word, "little") ^ i) & (2**64 - 1)).to_bytes(8, "little")
                    for i in range(size // 8 + 1))[:size]


def serve_kvlane(ini=""):
    """Starts `kvlane serve`. Returns the process and its port."""
    text = ("[store]\nmax_bytes = 256MiB\n"
            f"[tcp_remote]\nrole = server\nlisten = 127.0.0.1:0\n{ini}\n")
    server = subprocess.Popen([KVLANE, "serve", "--parent-death", "--ini", text],
                              stdout=subprocess.PIPE, text=True)
    line = server.stdout.readline()
    check(line.startswith("ready: "), f"the ready line of kvlane serve, not '{line}'")
    return server, int(line.rsplit(":", 1)[1])


def serve_python():
    """Starts LMCache's own server. Returns the process and its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, os.path.join(HERE, "lmcache_peer.py"), "server",
                               "127.0.0.1", str(port)], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while time.monotonic() < until:  # it has no ready line
        check(server.poll() is None, "LMCache's server starts")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server, port
        time.sleep(0.05)
    raise SystemExit("FAILED: LMCache's server does not listen")


def stop(server, how=signal.SIGTERM):
    server.send_signal(how)
    return server.wait(timeout=20)


def kvlane(*args, data=None):
    """Runs the executable. Returns exit code and stdout."""
    done = subprocess.run([KVLANE, *args], input=data, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=60, check=False)
    return done.returncode, done.stdout


def done(name):
    print(f"{name}: {checks} checks")
