"""Reads a file by 8 threads with one descriptor: each takes every eighth block of 1 MiB."""

import os
import threading

import worker

THREADS = 8
BLOCK_BYTES = 1 << 20


def read(descriptor, first, size):
    buffer = bytearray(BLOCK_BYTES)
    for offset in range(first * BLOCK_BYTES, size, THREADS * BLOCK_BYTES):
        os.preadv(descriptor, [buffer], offset)


def load(paths):
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        size = os.fstat(descriptor).st_size
        threads = [threading.Thread(target=read, args=(descriptor, first, size)) for first in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os.close(descriptor)


worker.run(load)
