"""Everything read again: from the disk cache by a new owner, and then from the page cache, beside the same files on the
same disk."""

import statistics

from . import Case


def cases():
    contestants = {"refmount": ours, "native": native}
    return [Case("again", "All bytes again, 4 readers: from the disk, then from the page cache", contestants, "native",
                 ["disk_bytes_per_second", "memory_bytes_per_second"])]


# Out of memory it takes so little time that one reading says little.
READINGS = 5


def both(bench, paths):
    disk, *memory = (bench.data.model_bytes / bench.cat_together(paths).seconds for _ in range(1 + READINGS))
    return {"disk_bytes_per_second": disk, "memory_bytes_per_second": statistics.median(memory)}


def ours(bench):
    bench.workplace.start_cold()
    with bench.full_mount() as mount:
        return mount.metrics(**both(bench, [mount.directory / name for name in bench.data.files]))


def native(bench):
    bench.workplace.start_cold()
    paths = bench.data.source_files()
    return both(bench, paths)
