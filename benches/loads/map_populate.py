"""Maps one large file with MAP_POPULATE, as programs that load GGUF do, and touches each page of it."""

import mmap

import worker


def load(paths):
    for path in paths:
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ) as mapped:
            len(mapped[:: mmap.PAGESIZE])


worker.run(load)
