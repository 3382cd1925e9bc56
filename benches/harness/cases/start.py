"""How soon an artifact is there: the mount, and the first byte of config.json after it."""

import subprocess

from ..contestants import first_byte_seconds, measured
from . import Case


def cases():
    contestants = {"refmount": ours, "rclone mount": rclone, "curl": curl}
    return [Case("start", "Mount, and the first byte of config.json", contestants, "curl",
                 ["mount_seconds", "first_byte_seconds"])]


def ours(bench):
    bench.workplace.start_cold(*bench.data.model.blob_files())
    with bench.cold_mount(bench.data.model.reference()) as mount:
        first = first_byte_seconds(mount.directory / "config.json")
        return mount.metrics(mount_seconds=mount.mount_seconds, first_byte_seconds=first)


def rclone(bench):
    bench.workplace.start_cold(*bench.data.model.blob_files())
    with bench.rclone() as mount:
        first = first_byte_seconds(mount.directory / "config.json")
        return measured(mount.stop(), mount_seconds=mount.mount_seconds, first_byte_seconds=first)


def curl(bench):
    """The manifest in place of the mount, then config.json, on the same connection."""
    bench.workplace.start_cold(*bench.data.model.blob_files())
    model = bench.data.model
    manifest = f"http://{model.registry.host}/v2/bench/model/manifests/v1"
    argv = ["curl", "--silent", "--fail", "--output", "/dev/null", "--output", "/dev/null",
            "--header", "Accept: application/vnd.oci.image.manifest.v1+json",
            "--write-out", "%{time_total}\n", manifest, model.url("config.json")]
    done = bench.commands.run(argv, stdout=subprocess.PIPE)
    first, second = map(float, done.stdout.split())
    return measured(done.usage, mount_seconds=first, first_byte_seconds=second)
