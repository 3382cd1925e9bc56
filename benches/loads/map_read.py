"""Maps each file and reads all of it, front to back."""

import mmap

import worker

COPY_BYTES = 1 << 20


def load(paths):
    buffer = bytearray(COPY_BYTES)
    for path in paths:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            with memoryview(mapped) as view:
                for offset in range(0, len(view), COPY_BYTES):
                    part = view[offset : offset + COPY_BYTES]
                    buffer[: len(part)] = part
                    part.release()


worker.run(load)
