"""A service manager for one service, which speaks as systemd does: NOTIFY_SOCKET, the store of descriptors, watchdog.

It runs SOCKET PROGRAM ARGUMENTS..., obeys one word on each line of standard input, and answers each with one line of
JSON: what it knows by then. The service and what it has started end with it.
"""
import array
import json
import os
import signal
import socket
import sys
import threading

STORED_MAX = int(os.environ.get("FDSTORE", "0"))
address, command = sys.argv[1], sys.argv[2:]
listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listening.bind(address)
listening.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
lock = threading.Lock()
stored = []  # of (name, descriptor), in an order that means nothing
seen = {"ready": 0, "reloading": 0, "stopping": 0, "watchdog": 0, "status": [], "strangers": 0}
service = None
left = None  # the last one's process group
caught_up = threading.Event()


def take(text, descriptors, sender):
    lines = dict(line.split("=", 1) for line in text.split("\n") if line)
    if sender != service:  # NotifyAccess=main
        seen["strangers"] += 1
    for word in ("READY", "RELOADING", "STOPPING", "WATCHDOG"):
        if lines.get(word) == "1":
            seen[word.lower()] += 1
    if "STATUS" in lines:
        seen["status"].append(lines["STATUS"])
    name = lines.get("FDNAME", "stored")
    if lines.get("FDSTORE") == "1":
        assert lines.get("FDPOLL") == "0" and len(descriptors) == 1, text
        assert all(32 < ord(c) < 127 and c != ":" for c in name) and len(name) < 256, name
        if len(stored) < STORED_MAX:
            # Others come first than those that were stored first.
            stored.insert(0, (name, descriptors.pop()))
    if lines.get("FDSTOREREMOVE") == "1":
        for kept in [kept for kept in stored if kept[0] == name]:
            os.close(kept[1])
            stored.remove(kept)
    for descriptor in descriptors:
        os.close(descriptor)


def listen():
    while True:
        data, beside, _, _ = listening.recvmsg(65536, 8192)
        descriptors, sender = array.array("i"), None
        for level, kind, value in beside:
            if kind == socket.SCM_RIGHTS:
                descriptors.frombytes(value[: len(value) - len(value) % descriptors.itemsize])
            elif kind == socket.SCM_CREDENTIALS:
                sender = int.from_bytes(value[:4], sys.byteorder)
        if data == b"CAUGHT UP":
            caught_up.set()
            continue
        with lock:
            take(data.decode(), list(descriptors), sender)


def start():
    global service
    with lock:
        passed = list(stored)
    # Where they are, they must not be written over: first far away, then to their numbers.
    service = os.fork()
    if service:
        return
    os.setpgid(0, 0)
    far = [os.dup2(descriptor, 5000 + place) for place, (_, descriptor) in enumerate(passed)]
    os.closerange(3, 5000)
    for place, descriptor in enumerate(far):
        os.dup2(descriptor, 3 + place, inheritable=True)
    os.closerange(max(5000, 3 + len(far)), 5000 + len(far))
    os.environ["NOTIFY_SOCKET"] = address
    if passed:
        names = ":".join(name for name, _ in passed)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(passed)), LISTEN_FDNAMES=names)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.dup2(2, 1)
    os.execv(command[0], command)


def wait(kills=True):
    global service, left
    _, status = os.waitpid(service, 0)
    # What the service has left behind is killed (KillMode=mixed), or not (KillMode=process).
    left = service
    if kills:
        kill_left()
    # What it has said before it ended counts.
    caught_up.clear()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
        own.sendto(b"CAUGHT UP", address)
    caught_up.wait()
    service = None
    return os.waitstatus_to_exitcode(status)


def kill_left():
    try:
        os.killpg(left, signal.SIGKILL)
    except ProcessLookupError:
        pass


threading.Thread(target=listen, daemon=True).start()
for line in sys.stdin:
    word, result = line.strip(), None
    if word == "start":
        start()
    elif word == "wait":
        result = wait()
    elif word == "reap":
        result = wait(kills=False)
    elif word == "release":
        with lock:
            for _, descriptor in stored:
                os.close(descriptor)
            stored.clear()
    elif word in ("TERM", "HUP", "INT", "KILL"):
        os.kill(service, signal.Signals["SIG" + word])
    with lock:
        answer = dict(seen, pid=service, result=result, stored=sorted(name for name, _ in stored))
    print(json.dumps(answer), flush=True)
if service:
    os.killpg(service, signal.SIGKILL)
if left:
    kill_left()
