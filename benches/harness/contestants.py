"""What several cases have in common: fetching with curl, skopeo and rclone, and reading with cat."""

import os
import subprocess
import time

from .mounted import Mounted
from .processes import Service, Usage, reap
from .servers import Servers
from .workplace import Workplace


class Bench:
    """What a contestant is given."""

    def __init__(self, workplace: Workplace, servers: Servers, data):
        self.workplace, self.servers, self.data = workplace, servers, data
        self.commands, self.log = workplace.commands, workplace.log
        self.scratch = workplace.scratch

    def cold_mount(self, reference, count=1):
        return Mounted(self.workplace, reference, self.workplace.cache, count)

    def full_mount(self):
        """Of the model, by a new owner, on the cache that has all of it."""
        return Mounted(self.workplace, self.data.model.reference(), self.workplace.full_cache)

    def fill_cache(self):
        """Makes the cache that has all of the model, verified."""
        with self.full_mount() as mount:
            self.cat_together([mount.directory / name for name in self.data.files])
            mount.wait_until_verified()

    def cat_together(self, paths):
        """One reader for each file."""
        return self.commands.run_together([["cat", path] for path in paths])

    def cat(self, paths):
        """One reader for all files."""
        return self.commands.run(["cat", *paths])

    def curl_files(self, artifact, paths, host=None):
        """Blobs to files, one curl for each; the files."""
        files = [self.scratch / path for path in paths]
        argvs = [
            ["curl", "--silent", "--fail", "--output", file, artifact.url(path, host)]
            for path, file in zip(paths, files)
        ]
        return self.commands.run_together(argvs), files

    def load(self, script, arguments):
        return self.commands.load(self.workplace.interpreter, self.workplace.loads / f"{script}.py", arguments)

    def rclone(self):
        return Rclone(self.workplace, self.servers.nginx.url)


class Rclone:
    """`rclone mount` of the blobs, which nginx serves under the names of their files. Nothing is cached on disk, and
    nothing verified."""

    def __init__(self, workplace, url):
        self.workplace, self.url = workplace, url
        self.directory = workplace.mounts / "rclone"
        self.usage = Usage()

    def __enter__(self):
        self.directory.mkdir(exist_ok=True)
        argv = ["rclone", "mount", "--read-only", "--config", "", "--http-url", self.url, ":http:", self.directory]
        self.workplace.log.note(argv, " &")
        start = time.perf_counter()
        self.service = Service(argv, self.workplace.root / "rclone.log")
        try:
            self.service.wait_for(lambda: os.path.ismount(self.directory), pause_seconds=0.001)
        except BaseException:
            # It unmounts what it has mounted.
            self.service.stop()
            raise
        self.mount_seconds = time.perf_counter() - start
        return self

    def __exit__(self, *_):
        self.workplace.commands.end()
        self.stop()

    def stop(self):
        """Unmounts, which ends it, and tells what it has used."""
        if self.service.process.returncode is None:
            subprocess.run(["fusermount3", "-u", str(self.directory)], check=True)
            self.usage = reap(self.service.process)
        return self.usage


def measured(usage, **metrics):
    """What was measured of a contestant that is no mount of ours."""
    return {**metrics, "cpu_seconds": usage.cpu_seconds, "peak_mib": usage.peak_mib}


def first_byte_seconds(path):
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        file.read(1)
    return time.perf_counter() - start
