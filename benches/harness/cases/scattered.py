"""200 reads of 4 KiB anywhere in the model, cold, beside curl of the 1 MiB around each on one connection."""

import json
import random
import statistics
import subprocess

from ..contestants import measured
from . import Case

READS = 200
CHUNK_BYTES = 1 << 20
SEED = 4


def cases():
    contestants = {"refmount": ours, "curl of 1 MiB": curl}
    return [Case("scattered", f"{READS} random reads of 4 KiB, cold", contestants, "curl of 1 MiB",
                 ["read_median_seconds", "total_seconds"])]


def places(data):
    """Shards, and offsets of whole chunks, none of them twice."""
    chunks = [(shard, chunk * CHUNK_BYTES) for shard in data.shards for chunk in range(data.shard_bytes // CHUNK_BYTES)]
    return random.Random(SEED).sample(chunks, READS)


def ours(bench):
    bench.workplace.start_cold(*bench.data.model.blob_files())
    with bench.cold_mount(bench.data.model.reference()) as mount:
        within = random.Random(SEED)
        reads = [
            [str(mount.directory / shard), offset + 4096 * within.randrange(CHUNK_BYTES // 4096)]
            for shard, offset in places(bench.data)
        ]
        file = bench.scratch / "places.json"
        file.write_text(json.dumps(reads))
        total, printed = bench.load("random_reads", [[file]])
        seconds = json.loads(printed[0])
        return mount.metrics(read_median_seconds=statistics.median(seconds), total_seconds=total)


def curl(bench):
    bench.workplace.start_cold(*bench.data.model.blob_files())
    requests = [
        f'url = "{bench.data.model.url(shard)}"\nrange = {offset}-{offset + CHUNK_BYTES - 1}\n'
        'output = "/dev/null"\nsilent\nfail\nwrite-out = "%{time_total} %{num_connects}\\n"\n'
        for shard, offset in places(bench.data)
    ]
    file = bench.scratch / "requests"
    file.write_text("next\n".join(requests))
    done = bench.commands.run(["curl", "--config", file], stdout=subprocess.PIPE)
    times, connects = zip(*(line.split() for line in done.stdout.splitlines()))
    if sum(map(int, connects)) != 1:
        raise RuntimeError(f"curl has made {sum(map(int, connects))} connections for its ranges")
    return measured(done.usage, read_median_seconds=statistics.median(map(float, times)), total_seconds=done.seconds)
