"""What the figures were measured on and with."""

import os
import platform
import subprocess
from datetime import datetime, timezone


def first_line(argv):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "missing"
    return next(iter((done.stdout or done.stderr).splitlines()), "")


def processor():
    with open("/proc/cpuinfo") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.machine())


def memory_gib():
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def objection(file_system, free_bytes, quick):
    """Why a run cannot measure what it should in a directory, or none."""
    needed_gb = 4 if quick else 15
    if file_system.split()[-1:] == ["tmpfs"]:
        return "is in memory: name one on a disk by TMPDIR"
    if free_bytes < needed_gb * 1e9:
        return f"has {free_bytes / 1e9:.1f} GB of room, and {needed_gb} are needed: name another one by TMPDIR"
    return None


def file_system(path):
    return first_line(["findmnt", "-n", "-o", "SOURCE,FSTYPE", "-T", str(path)])


def packages(names):
    listed = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *names],
                            capture_output=True, text=True, check=False).stdout
    return dict(line.split() for line in listed.splitlines() if len(line.split()) == 2)


def describe(workplace):
    git = ["git", "-C", str(workplace.repository)]
    changed = first_line([*git, "status", "--porcelain", "--untracked-files=no"])
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": first_line([*git, "rev-parse", "HEAD"]) + (" and changes" if changed else ""),
        "refmount": first_line([str(workplace.refmount), "--version"]),
        "kernel": platform.release(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": memory_gib(),
        "file_system": file_system(workplace.root),
        "page_cache_dropped": workplace.drops_page_cache,
        "load_before": os.getloadavg()[0],
        "packages": packages(["curl", "docker-registry", "fio", "isal", "nginx-light", "pigz", "rclone", "skopeo", "tar"]),
    }
