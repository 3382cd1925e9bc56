"""The figures to reach."""

from .figures import Figure

MIB_MAX = 150.0

FIGURES = [
    Figure("`mount` until it returns", "start", "mount_seconds", "<=", 150.0, relative=False, unit="ms", scale=1e3,
           baseline=("curl", "mount_seconds"), against="curl of the manifest"),
    Figure("first byte of config.json after that", "start", "first_byte_seconds", "<=", 10.0, relative=False,
           unit="ms", scale=1e3, baseline=("curl", "first_byte_seconds"), against="curl of config.json"),
    Figure("all bytes, 4 readers, cold", "cold-all", "total_seconds", "<=", 1.1,
           baseline=("curl x4, cat", "total_seconds"), against="4 parallel curl to files, then cat"),
    Figure("the same, without the mount", "cold-all", "read_seconds", "<=", 1.1,
           baseline=("curl x4, cat", "total_seconds"), against="4 parallel curl to files, then cat"),
    Figure("everything cached and verified", "cold-all", "verified_seconds", "<=", 1.5,
           baseline=("curl x4, cat", "total_seconds"), against="4 parallel curl to files, then cat"),
    Figure("one shard, 1 reader, cold", "cold-shard", "total_seconds", "<=", 1.25,
           baseline=("curl, cat", "total_seconds"), against="curl to a file, then cat"),
    Figure("the same, without the mount", "cold-shard", "read_seconds", "<=", 1.25,
           baseline=("curl, cat", "total_seconds"), against="curl to a file, then cat"),
    Figure("8 processes map and read one shard, cold: network bytes", "cold-mapped", "network_bytes_per_byte", "<=",
           1.02, contestant="refmount, 8 processes", relative=False, unit="of its size",
           baseline=("refmount, 1 process", "network_bytes_per_byte"), against="1 process"),
    Figure("8 processes map and read one shard, cold: time", "cold-mapped", "read_seconds", "<=", 1.3,
           contestant="refmount, 8 processes", baseline=("refmount, 1 process", "read_seconds"), against="1 process"),
    Figure("all bytes from the disk cache, new owner", "again", "disk_bytes_per_second", ">=", 0.95,
           baseline=("native", "disk_bytes_per_second"), against="the files on the same disk"),
    Figure("all bytes from the page cache", "again", "memory_bytes_per_second", ">=", 0.95,
           baseline=("native", "memory_bytes_per_second"), against="the files in the page cache"),
    *(
        Figure(f"warm, page cache: fio, {what}", "fio", f"memory_{metric}", ">=", target,
               baseline=("native", f"memory_{metric}"), against="the file in the page cache")
        for what, metric, target in [
            ("1 MiB in sequence", "sequential_1_bytes_per_second", 0.95),
            ("1 MiB in sequence, 4 jobs", "sequential_4_bytes_per_second", 0.95),
            ("random 4 KiB", "random_4k_1_iops", 0.85),
            ("random 4 KiB, 16 jobs", "random_4k_16_iops", 0.85),
            ("random 1 MiB", "random_1m_1_bytes_per_second", 0.95),
            ("mapped", "mapped_1_bytes_per_second", 0.95),
        ]
    ),
    Figure("random 4 KiB, cold, median of 200 reads", "scattered", "read_median_seconds", "<=", 1.5,
           baseline=("curl of 1 MiB", "read_median_seconds"), against="curl of one 1 MiB range, kept connection"),
    Figure("1 Gbit/s and 50 ms: one shard, 1 reader", "link-50", "bytes_per_second", ">=", 0.9,
           baseline=("curl", "bytes_per_second"), against="the link, as curl measures it"),
    Figure("tar+gzip of the model, all bytes, cold", "archive", "total_seconds", "<=", 1.3,
           baseline=("curl, igzip", "total_seconds"), against="curl to a file, igzip of it once"),
    Figure("tar+gzip of the model, all bytes, cold", "archive", "total_seconds", "<=", 0.45,
           baseline=("skopeo, tar -xz, cat", "total_seconds"), against="skopeo, tar -xz and cat"),
    Figure("tar+gzip of the model: its first file after the mount", "archive", "first_file_seconds", "<=", 100.0,
           relative=False, unit="ms", scale=1e3, baseline=("curl, igzip", "first_file_seconds"),
           against="curl to a file, igzip of it once"),
    Figure("processor time for a GiB of cold raw read", "cold-all", "cpu_seconds_per_gib", "<=", 1.5, relative=False,
           unit="s", baseline=("curl x4, cat", "cpu_seconds_per_gib"), against="4 parallel curl to files, then cat"),
    Figure("many small files, found and all read, warm", "small-files", "warm_seconds", "<=", 2.0,
           baseline=("curl, tar -x", "warm_seconds"), against="the same files on the disk"),
]


def is_ours(contestant):
    return contestant.startswith("refmount")


def peak_of_each_case(results):
    """The most memory that our processes had in each case, of all rounds."""
    peaks = {}
    for record in results.records:
        if is_ours(record["contestant"]) and "peak_mib" in record["metrics"]:
            peaks[record["case"]] = max(peaks.get(record["case"], 0.0), record["metrics"]["peak_mib"])
    return peaks
