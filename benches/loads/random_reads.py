"""Reads 4 KiB at each of the places in a JSON file, a list of [path, offset]; tells how many seconds each took."""

import json
import os
import sys
import time

import worker

with open(sys.argv[1]) as file:
    places = json.load(file)


def load(_):
    descriptors = {path: os.open(path, os.O_RDONLY) for path, _ in places}
    seconds = []
    for path, offset in places:
        start = time.perf_counter()
        count = len(os.pread(descriptors[path], 4096, offset))
        seconds.append(time.perf_counter() - start)
        assert count == 4096, f"{count} bytes at {offset} of {path}"
    return seconds


worker.run(load)
