"""Many small files in one layer: found and all read, cold and then warm, beside the same files on the disk."""

import time

from ..contestants import measured
from . import Case


def cases():
    contestants = {"refmount": ours, "curl, tar -x": unpacked}
    return [Case("small-files", "Many small files, found and all read: cold, then warm", contestants, "curl, tar -x",
                 ["cold_seconds", "warm_seconds"])]


def walk(bench, directory):
    return bench.commands.run(["find", directory, "-type", "f", "-exec", "cat", "{}", "+"])


def ours(bench):
    bench.workplace.start_cold(*bench.data.small.blob_files())
    start = time.perf_counter()
    with bench.cold_mount(bench.data.small.reference()) as mount:
        walk(bench, mount.directory)
        cold = time.perf_counter() - start
        return mount.metrics(cold_seconds=cold, warm_seconds=walk(bench, mount.directory).seconds)


def unpacked(bench):
    bench.workplace.start_cold(*bench.data.small.blob_files())
    tree = bench.scratch / "tree"
    tree.mkdir()
    fetched, files = bench.curl_files(bench.data.small, ["layer"])
    unpacking = bench.commands.run(["tar", "-xf", *files, "-C", tree])
    first = walk(bench, tree)
    again = walk(bench, tree)
    usage = fetched.usage.after(unpacking.usage).after(first.usage)
    return measured(usage, cold_seconds=fetched.seconds + unpacking.seconds + first.seconds,
                    warm_seconds=again.seconds)
