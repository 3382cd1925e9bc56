"""A mount by refmount, the process that owns it, and what they say of themselves."""

import contextlib
import http.client
import json
import os
import signal
import socket
import time
import urllib.parse

from .processes import Usage, usage_of_tree


class SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("refmount")
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)


def end_owner(pid):
    """Has it end as it does by itself, and waits for it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    while is_running(pid):
        time.sleep(0.01)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Mounted:
    """Mounts of one reference on one cache directory; unmounted, and its owner ended, when left."""

    def __init__(self, workplace, reference, cache, count=1):
        self.workplace, self.reference, self.cache = workplace, reference, cache
        self.directories = [workplace.mounts / f"refmount-{number}" for number in range(count)]
        self.clients = Usage()

    @property
    def directory(self):
        return self.directories[0]

    def __enter__(self):
        self.mount_seconds = 0.0
        for directory in self.directories:
            directory.mkdir(exist_ok=True)
            done = self._run("mount", self.reference, directory)
            self.mount_seconds += done.seconds
            self.clients = self.clients.after(done.usage)
        self.owner = int((self.cache / "owner.lock").read_text())
        return self

    def __exit__(self, *_):
        self.workplace.commands.end()
        self._run("umount", *self.directories)
        # The owner would end a moment after its last mount; the next one must not be handed to it.
        end_owner(self.owner)

    def _run(self, *arguments):
        argv = [self.workplace.refmount, *arguments]
        return self.workplace.commands.run(argv, env={"REFMOUNT_CACHE_DIR": str(self.cache)})

    def status(self, directory=None):
        connection = SocketConnection(self.cache / "control.sock")
        target = urllib.parse.quote(str(directory or self.directory), safe="")
        connection.request("GET", f"/v1/mounts/status?target={target}")
        response = connection.getresponse()
        body = response.read()
        connection.close()
        if response.status != 200:
            raise RuntimeError(f"status of {self.reference}: {body.decode()}")
        return json.loads(body)

    def wait_until_verified(self, timeout_seconds=120.0):
        """Until every file is in the cache and has matched its digest."""
        give_up = time.monotonic() + timeout_seconds
        while True:
            status = self.status()
            if not status["layers_reading"] and all(file["standing"] == "proven" for file in status["files"]):
                return
            if time.monotonic() > give_up:
                raise RuntimeError(f"not everything is verified after {timeout_seconds} s")
            time.sleep(0.02)

    def metrics(self, **measured):
        """What was measured, with what the processes have used and fetched until now."""
        usage = self.clients.after(usage_of_tree(self.owner))
        statuses = [self.status(directory) for directory in self.directories]
        # What is fetched for several mounts of a reference, each of them counts; the first one has seen all of it.
        first = statuses[0]
        fetched = {f"fetched_{cause}_bytes": count for cause, count in first["fetched_bytes"].items()}
        return {
            **measured,
            "cpu_seconds": usage.cpu_seconds,
            "peak_mib": usage.peak_mib,
            "network_bytes": first["network_bytes"],
            "wasted_bytes": first["wasted_bytes"],
            "reads_waited": sum(status["reads_waited"] for status in statuses),
            "waited_seconds": sum(status["waited_seconds"] for status in statuses),
            **fetched,
        }
