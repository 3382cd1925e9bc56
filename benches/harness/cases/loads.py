"""One shard, or all, as programs load them, cold. The baseline fetches to a file with curl, and loads that."""

from ..contestants import measured
from . import Case

PROCESSES = 8


def cases():
    def pair(name, title, script, processes=1):
        contestants = {
            "refmount": lambda bench: ours(bench, script, processes),
            "curl, load": lambda bench: curl(bench, script, processes),
        }
        return Case(name, title, contestants, "curl, load", ["read_seconds"])

    return [
        pair("safetensors-1", "safetensors' load of one shard, cold", "safetensors_load"),
        pair(f"safetensors-{PROCESSES}", f"safetensors' load of one shard by {PROCESSES} processes at once, cold",
             "safetensors_load", PROCESSES),
        pair("populate", "One shard mapped with MAP_POPULATE, cold", "map_populate"),
        pair("threads", "One shard read by 8 threads of pread, interleaved, cold", "threads_pread"),
    ]


def ours(bench, script, processes, host=None):
    data = bench.data
    bench.workplace.start_cold(data.model.blob_file(data.shard))
    with bench.cold_mount(data.model.reference(host)) as mount:
        seconds, _ = bench.load(script, [[mount.directory / data.shard]] * processes)
        return mount.metrics(read_seconds=seconds)


def curl(bench, script, processes, host=None):
    data = bench.data
    bench.workplace.start_cold(data.model.blob_file(data.shard))
    fetched, files = bench.curl_files(data.model, [data.shard], host)
    seconds, _ = bench.load(script, [files] * processes)
    return measured(fetched.usage, read_seconds=fetched.seconds + seconds)
