"""The model as one tar+gzip archive, all of its bytes, cold."""

import time

from ..contestants import measured
from . import Case


def cases():
    contestants = {
        "refmount": ours,
        "curl, igzip": igzip,
        "skopeo, tar -xz, cat": lambda bench: unpacked(bench, "gzip"),
        "skopeo, tar -x with pigz, cat": lambda bench: unpacked(bench, "pigz"),
    }
    return [Case("archive", "tar+gzip of the model, all bytes, cold", contestants, "curl, igzip",
                 ["total_seconds", "first_file_seconds"])]


def ours(bench):
    data = bench.data
    bench.workplace.start_cold(*data.archive.blob_files())
    start = time.perf_counter()
    with bench.cold_mount(data.archive.reference()) as mount:
        before = time.perf_counter()
        # The first one of the archive.
        (mount.directory / data.files[0]).read_bytes()
        first_file = time.perf_counter() - before
        bench.cat([mount.directory / name for name in data.files])
        total = time.perf_counter() - start
        return mount.metrics(total_seconds=total, first_file_seconds=first_file, mount_seconds=mount.mount_seconds)


def igzip(bench):
    """Fetched to a file, and decoded once, to nowhere."""
    bench.workplace.start_cold(*bench.data.archive.blob_files())
    fetched, files = bench.curl_files(bench.data.archive, ["layer"])
    decoded = bench.commands.run(["igzip", "--decompress", "--stdout", *files])
    total = fetched.seconds + decoded.seconds
    return measured(fetched.usage.after(decoded.usage), total_seconds=total, first_file_seconds=total)


def unpacked(bench, program):
    data = bench.data
    bench.workplace.start_cold(*data.archive.blob_files())
    pulled, tree = bench.scratch / "pulled", bench.scratch / "tree"
    tree.mkdir()
    copy = ["skopeo", "copy", "--quiet", "--src-tls-verify=false",
            f"docker://{data.archive.reference()}", f"dir:{pulled}"]
    fetched = bench.commands.run(copy)
    layer = pulled / data.archive.blobs["layer"].split(":")[1]
    unpacking = bench.commands.run(["tar", f"--use-compress-program={program}", "-xf", layer, "-C", tree])
    read = bench.cat([tree / name for name in data.files])
    usage = fetched.usage.after(unpacking.usage).after(read.usage)
    return measured(usage, total_seconds=fetched.seconds + unpacking.seconds + read.seconds)
