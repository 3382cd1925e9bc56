"""Over a link of 1 Gbit/s with a delay: what the link itself brings, one shard with one reader, and a safetensors
load."""

import subprocess

from ..contestants import measured
from . import Case, loads

ROUND_TRIPS_MS = (10, 50)


def cases():
    found = []
    for rtt_ms in ROUND_TRIPS_MS:
        reading = {
            "refmount": lambda bench, rtt=rtt_ms: ours(bench, rtt),
            "curl": lambda bench, rtt=rtt_ms: curl(bench, rtt),
        }
        loading = {
            "refmount": lambda bench, rtt=rtt_ms: loads.ours(bench, "safetensors_load", 1, host(bench, rtt)),
            "curl, load": lambda bench, rtt=rtt_ms: loads.curl(bench, "safetensors_load", 1, host(bench, rtt)),
        }
        link = f"1 Gbit/s and {rtt_ms} ms"
        found += [
            Case(f"link-{rtt_ms}", f"One shard, 1 reader, cold, over {link}", reading, "curl", ["bytes_per_second"]),
            Case(f"link-{rtt_ms}-safetensors", f"safetensors' load of one shard, cold, over {link}", loading,
                 "curl, load", ["read_seconds"]),
        ]
    return found


def host(bench, rtt_ms):
    return bench.servers.link(rtt_ms).host


def ours(bench, rtt_ms):
    data = bench.data
    bench.workplace.start_cold(data.model.blob_file(data.shard))
    with bench.cold_mount(data.model.reference(host(bench, rtt_ms))) as mount:
        read = bench.cat([mount.directory / data.shard])
        return mount.metrics(bytes_per_second=data.shard_bytes / read.seconds, mount_seconds=mount.mount_seconds)


def curl(bench, rtt_ms):
    """What the link brings, from the first byte to the last; and its round trip, of a request on a kept connection."""
    data = bench.data
    bench.workplace.start_cold(data.model.blob_file(data.shard))
    address = host(bench, rtt_ms)
    form = "%{time_starttransfer} %{time_pretransfer} %{time_total}\n"
    ping = f"http://{address}/v2/"
    argv = ["curl", "--silent", "--fail", *["--output", "/dev/null"] * 3, "--write-out", form,
            ping, ping, data.model.url(data.shard, address)]
    done = bench.commands.run(argv, stdout=subprocess.PIPE)
    _, kept, shard = [list(map(float, line.split())) for line in done.stdout.splitlines()]
    return measured(
        done.usage,
        bytes_per_second=data.shard_bytes / (shard[2] - shard[0]),
        bytes_per_second_with_request=data.shard_bytes / (shard[2] - shard[1]),
        round_trip_seconds=kept[0] - kept[1],
    )
