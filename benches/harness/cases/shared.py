"""Several readers of the same shard at once: 8 processes that map it, and 20 mounts of the artifact."""

from ..contestants import measured
from . import Case

PROCESSES = 8
MOUNTS = 20


def cases():
    mapped = {
        f"refmount, {PROCESSES} processes": lambda bench: mapped_ours(bench, PROCESSES),
        "refmount, 1 process": lambda bench: mapped_ours(bench, 1),
        f"curl, {PROCESSES} processes": mapped_curl,
    }
    mounts = {"refmount": mounts_ours, "curl, cat": mounts_curl}
    return [
        Case("cold-mapped", f"One shard mapped and read by {PROCESSES} processes at once, cold", mapped,
             "refmount, 1 process", ["read_seconds"]),
        Case("many-mounts", f"One shard read in {MOUNTS} mounts at once, cold", mounts, "curl, cat", ["read_seconds"]),
    ]


def mapped_ours(bench, processes):
    data = bench.data
    bench.workplace.start_cold(data.model.blob_file(data.shard))
    with bench.cold_mount(data.model.reference()) as mount:
        seconds, _ = bench.load("map_read", [[mount.directory / data.shard]] * processes)
        metrics = mount.metrics(read_seconds=seconds)
        return {**metrics, "network_bytes_per_byte": metrics["network_bytes"] / data.shard_bytes}


def mapped_curl(bench):
    data = bench.data
    bench.workplace.start_cold(data.model.blob_file(data.shard))
    fetched, files = bench.curl_files(data.model, [data.shard])
    seconds, _ = bench.load("map_read", [files] * PROCESSES)
    return measured(fetched.usage, read_seconds=fetched.seconds + seconds)


def mounts_ours(bench):
    data = bench.data
    bench.workplace.start_cold(data.model.blob_file(data.shard))
    with bench.cold_mount(data.model.reference(), MOUNTS) as mount:
        read = bench.cat_together([directory / data.shard for directory in mount.directories])
        metrics = mount.metrics(read_seconds=read.seconds, mount_seconds=mount.mount_seconds / MOUNTS)
        return {**metrics, "network_bytes_per_byte": metrics["network_bytes"] / data.shard_bytes}


def mounts_curl(bench):
    data = bench.data
    bench.workplace.start_cold(data.model.blob_file(data.shard))
    fetched, files = bench.curl_files(data.model, [data.shard])
    read = bench.cat_together(files * MOUNTS)
    return measured(fetched.usage.after(read.usage), read_seconds=fetched.seconds + read.seconds)
