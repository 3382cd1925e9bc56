"""The jobs of benches/fio on one shard, through a mount whose cache has all of it, and on the same file natively:
once with nothing in the page cache, by a new owner, then with everything in it."""

import json
import os
import subprocess

from . import Case

JOBS = ["sequential-1", "sequential-4", "random-4k-1", "random-4k-16", "random-1m-1", "mapped-1", "direct-16"]


def cases():
    contestants = {"refmount": ours, "native": native}
    shown = [f"{state}_{name(job)}" for state in ("memory", "disk") for job in JOBS]
    return [Case("fio", "fio on one shard", contestants,
                 "native", shown)]


def name(job):
    unit = "iops" if "4k" in job else "bytes_per_second"
    return f"{job.replace('-', '_')}_{unit}"


def ours(bench):
    metrics = {}
    for job in JOBS:
        bench.workplace.start_cold()
        with bench.full_mount() as mount:
            metrics.update(run(bench, job, mount.directory / bench.data.shard, "disk"))
            usage = mount.metrics()
    bench.workplace.start_cold()
    with bench.full_mount() as mount:
        path = mount.directory / bench.data.shard
        # The first reading checks what is cached; who opens the file after it may get it from the kernel alone.
        for _ in range(2):
            bench.cat([path])
        for job in JOBS:
            metrics.update(run(bench, job, path, "memory"))
        memory = mount.metrics()
    usage["peak_mib"] = max(usage["peak_mib"], memory["peak_mib"])
    return {**metrics, "peak_mib": usage["peak_mib"], "cpu_seconds": memory["cpu_seconds"]}


def native(bench):
    metrics = {}
    path = bench.data.source / bench.data.shard
    for job in JOBS:
        bench.workplace.start_cold()
        metrics.update(run(bench, job, path, "disk"))
    bench.workplace.start_cold()
    for _ in range(2):
        bench.cat([path])
    for job in JOBS:
        metrics.update(run(bench, job, path, "memory"))
    return metrics


def run(bench, job, path, state):
    """From the disk every byte is read at most once; from memory for some time."""
    milliseconds = 400 if bench.workplace.quick else 2000
    variables = {"FILE": str(path), "MILLISECONDS": str(milliseconds), "REPEAT": "1" if state == "memory" else "0"}
    file = bench.workplace.repository / "benches/fio" / f"{job}.fio"
    prefix = [f"{key}={value}" for key, value in variables.items()]
    argv = ["env", *prefix, "fio", "--readonly", "--output-format=json", file]
    printed = bench.commands.run(argv, stdout=subprocess.PIPE, env=dict(os.environ)).stdout
    # What fio has to say besides comes before its JSON.
    read = json.loads(printed[printed.index("{"):])["jobs"][0]["read"]
    if not read["io_bytes"]:
        raise RuntimeError(f"fio has read nothing in {job} of {path}")
    value = read["iops"] if "4k" in job else read["bw_bytes"]
    return {f"{state}_{name(job)}": value}
