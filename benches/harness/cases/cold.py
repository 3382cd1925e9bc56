"""Everything, or one shard, read once when nothing is cached. Times are from before the mount, or before the first
byte is fetched."""

import time

from ..contestants import measured
from . import Case


def cases():
    everything = {
        "refmount": all_ours, "curl x4, cat": all_curl, "rclone mount": all_rclone, "skopeo copy, cat": all_skopeo,
    }
    shard = {"refmount": shard_ours, "curl, cat": shard_curl, "rclone mount": shard_rclone}
    return [
        Case("cold-all", "All bytes, 4 readers, cold", everything, "curl x4, cat", ["total_seconds"]),
        Case("cold-shard", "One shard, 1 reader, cold", shard, "curl, cat", ["total_seconds"]),
    ]


def all_ours(bench):
    data = bench.data
    bench.workplace.start_cold(*data.model.blob_files())
    start = time.perf_counter()
    with bench.cold_mount(data.model.reference()) as mount:
        read = bench.cat_together([mount.directory / name for name in data.shards])
        bench.cat([mount.directory / "config.json"])
        total = time.perf_counter() - start
        mount.wait_until_verified()
        verified = time.perf_counter() - start
        metrics = mount.metrics(total_seconds=total, read_seconds=read.seconds, verified_seconds=verified)
        return {**metrics, "cpu_seconds_per_gib": metrics["cpu_seconds"] / (data.model_bytes / 2**30)}


def all_curl(bench):
    data = bench.data
    bench.workplace.start_cold(*data.model.blob_files())
    fetched, files = bench.curl_files(data.model, data.shards)
    config, more = bench.curl_files(data.model, ["config.json"])
    read = bench.cat([*files, *more])
    usage = fetched.usage.after(config.usage).after(read.usage)
    total = fetched.seconds + config.seconds + read.seconds
    return measured(usage, total_seconds=total, verified_seconds=total,
                    cpu_seconds_per_gib=usage.cpu_seconds / (data.model_bytes / 2**30))


def all_rclone(bench):
    data = bench.data
    bench.workplace.start_cold(*data.model.blob_files())
    start = time.perf_counter()
    with bench.rclone() as mount:
        bench.cat_together([mount.directory / name for name in data.shards])
        bench.cat([mount.directory / "config.json"])
        total = time.perf_counter() - start
        usage = mount.stop()
    return measured(usage, total_seconds=total, cpu_seconds_per_gib=usage.cpu_seconds / (data.model_bytes / 2**30))


def all_skopeo(bench):
    data = bench.data
    bench.workplace.start_cold(*data.model.blob_files())
    pulled = bench.scratch / "pulled"
    copy = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{data.model.reference()}", f"dir:{pulled}"]
    fetched = bench.commands.run(copy)
    read = bench.cat([pulled / data.model.blobs[name].split(":")[1] for name in data.files])
    usage = fetched.usage.after(read.usage)
    total = fetched.seconds + read.seconds
    return measured(usage, total_seconds=total, verified_seconds=total,
                    cpu_seconds_per_gib=usage.cpu_seconds / (data.model_bytes / 2**30))


def shard_ours(bench):
    data = bench.data
    bench.workplace.start_cold(data.model.blob_file(data.shard))
    start = time.perf_counter()
    with bench.cold_mount(data.model.reference()) as mount:
        read = bench.cat([mount.directory / data.shard])
        return mount.metrics(total_seconds=time.perf_counter() - start, read_seconds=read.seconds)


def shard_curl(bench):
    data = bench.data
    bench.workplace.start_cold(data.model.blob_file(data.shard))
    fetched, files = bench.curl_files(data.model, [data.shard])
    read = bench.cat(files)
    return measured(fetched.usage.after(read.usage), total_seconds=fetched.seconds + read.seconds)


def shard_rclone(bench):
    data = bench.data
    bench.workplace.start_cold(data.model.blob_file(data.shard))
    start = time.perf_counter()
    with bench.rclone() as mount:
        bench.cat([mount.directory / data.shard])
        total = time.perf_counter() - start
        usage = mount.stop()
    return measured(usage, total_seconds=total)
