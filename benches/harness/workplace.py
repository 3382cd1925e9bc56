"""The directories of a run, what is in them, and the state in which a contestant finds the machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .processes import CommandLog, Commands

READ_BYTES = 1 << 20

# More than the pages of the cache, of the mount and of what reads through it together.
TOUCHED_BYTES = 5 << 30

# What contestants run; in memory at their start, as programs that are in use are.
PROGRAMS = ["cat", "curl", "find", "fio", "fusermount3", "gzip", "igzip", "pigz", "rclone", "skopeo", "tar"]


class Workplace:
    """Everything that a run makes lies in `root`, and is known to its contestants from here."""

    def __init__(self, root, programs, interpreter, quick):
        self.root = Path(root)
        self.quick = quick
        self.repository = Path(__file__).resolve().parents[2]
        self.loads = self.repository / "benches/loads"
        self.refmount = Path(programs) / "refmount"
        self.examples = Path(programs) / "examples"
        self.interpreter = Path(interpreter)
        self.log = CommandLog({
            str(self.refmount): "refmount",
            str(self.interpreter): "python3",
            f"{self.examples}/": "",
            f"{self.repository}/": "",
            str(self.root): "$WORK",
        })
        self.commands = Commands(self.log)
        # The cold cache, the one that has everything, what contestants write, and where they mount.
        self.cache = self.root / "cache"
        self.full_cache = self.root / "full-cache"
        self.scratch = self.root / "scratch"
        self.mounts = self.root / "mounts"
        self.mounts.mkdir()
        # Samples what contestants do, but not what is done for them.
        self.recorder = None
        self.drops_page_cache = os.access("/proc/sys/vm/drop_caches", os.W_OK)

    def start_cold(self, *in_memory):
        """Nothing cached and nothing written; no page of a file in memory but those of `in_memory`, which a registry
        serves. What others have written is on the disk, so that nobody writes in another one's time."""
        if self.recorder:
            self.recorder.disable()
        shutil.rmtree(self.cache, ignore_errors=True)
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()
        self.forget_pages()
        for path in in_memory:
            read_through(path)
        # What leads a registry to its blobs.
        for path in (self.root / "registry").rglob("link"):
            read_through(path)
        for program in [self.refmount, *PROGRAMS]:
            read_through(program if program is self.refmount else shutil.which(program))
            version = "version" if program == "rclone" else "--version"
            subprocess.run([program, version], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        touch_memory()
        if self.recorder:
            self.recorder.enable()

    def forget_pages(self):
        os.sync()
        if self.drops_page_cache:
            with open("/proc/sys/vm/drop_caches", "w") as file:
                file.write("3")


def touch_memory():
    """Has the host of a virtual machine give it the memory that it may use next. Where free pages are handed back to the
    host (free page reporting), the first touch of each costs many times what a write to it does, so that whoever
    comes after a pause, or uses more pages, would be measured by that."""
    # What is in memory stays there.
    touched = min(TOUCHED_BYTES, free_bytes() * 3 // 4)
    flags = "mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE"
    # In a process of its own: what is started later would inherit the peak.
    subprocess.run([sys.executable, "-c", f"import mmap; mmap.mmap(-1, {touched}, flags={flags})"], check=True)


def free_bytes():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemFree"))


def read_through(path):
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(READ_BYTES)
        while file.readinto(buffer):
            pass
