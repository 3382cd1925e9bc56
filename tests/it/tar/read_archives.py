"""read_archives.py SCRATCH ARCHIVE...: how GNU tar and Python's tarfile read each archive, one line of JSON each.

    {"gnu": {"status", "entries", "files"}, "python": {"error", "entries"}}

Bytes are text in latin-1. `files` are those that GNU tar extracted, with digests and extended attributes.
"""

import codecs
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile

scratch = sys.argv[1]
ENVIRONMENT = {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}
LINE = re.compile(
    rb'(.)(.{9})[.+@]? (\d+)/(\d+) +(\d+|\d+,\d+) (-?\d+-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?|-?\d+(?:\.\d+)?) +'
    rb'"((?:[^"\\]|\\.)*)"(?:(?: -> | link to )"((?:[^"\\]|\\.)*)")?$'
)


def text(raw):
    return raw.decode("latin-1")


def unquote(raw):
    return text(codecs.escape_decode(raw)[0])


def seconds(stamp):
    """(seconds, nanoseconds) of a date of any year, UTC."""
    match = re.match(rb"(-?\d+)-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d+))?$", stamp)
    if not match:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    days = era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468
    fraction = (match.group(7) or b"").ljust(9, b"0")
    return [days * 86400 + hour * 3600 + minute * 60 + second, int(fraction)]


def bits(letters):
    value = 0
    for index, letter in enumerate(text(letters)):
        if letter in "rwxst":
            value |= 0o400 >> index
        if letter in "sStT":
            value |= {2: 0o4000, 5: 0o2000, 8: 0o1000}[index]
    return value


def listed_by_gnu(archive):
    command = ["tar", "--numeric-owner", "--full-time", "--quoting-style=c", "-P", "-tvf", archive]
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=False, timeout=600)
    entries = []
    for line in run.stdout.splitlines():
        match = LINE.match(line)
        if not match:
            entries.append({"unread": text(line)})
            continue
        kind, mode, uid, gid, size, mtime, path, target = match.groups()
        entries.append({
            # A contiguous file is a file.
            "kind": text(kind).replace("C", "-"), "mode": bits(mode), "uid": int(uid), "gid": int(gid), "size": text(size),
            "mtime": seconds(mtime), "name": unquote(path), "target": None if target is None else unquote(target),
        })
    return run.returncode, text(run.stderr), entries


def extracted_by_gnu(archive):
    into = os.path.join(scratch, os.path.basename(archive) + ".d")
    os.mkdir(into)
    command = ["tar", "-C", into, "--xattrs", "--xattrs-include=user.*", "--no-same-owner", "-xpf", archive]
    subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=False, timeout=600)
    files = {}
    for directory, _, names in os.walk(os.fsencode(into)):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            with open(path, "rb") as file:
                digest = hashlib.sha256(file.read()).hexdigest()
            xattrs = {text(os.fsencode(key)): text(os.getxattr(path, key)) for key in os.listxattr(path)}
            xattrs = {key: value for key, value in xattrs.items() if key.startswith("user.")}
            files[text(os.path.relpath(path, os.fsencode(into)))] = {"sha256": digest, "xattrs": xattrs,
                "mtime": os.stat(path).st_mtime_ns}
    return files


def read_by_python(archive):
    entries = []
    try:
        with tarfile.open(archive, encoding="utf-8", errors="surrogateescape") as reader:
            for info in reader:
                digest = None
                if info.isreg():
                    digest = hashlib.sha256(reader.extractfile(info).read()).hexdigest()
                kind = {b"0": "-", b"\0": "-", b"7": "-", b"S": "-", b"1": "h", b"2": "l", b"3": "c", b"4": "b",
                        b"5": "d", b"6": "p"}.get(info.type, "?")
                entries.append({
                    "kind": kind, "name": text(os.fsencode(info.name)), "mode": info.mode & 0o7777, "uid": info.uid, "gid": info.gid,
                    "size": info.size, "mtime": info.mtime, "target": text(os.fsencode(info.linkname)), "sha256": digest,
                    "type": info.type.decode("latin-1"),
                    "device": [info.devmajor, info.devminor],
                    "xattrs": {text(os.fsencode(key[13:])): text(os.fsencode(value)) for key, value in info.pax_headers.items()
                               if key.startswith("SCHILY.xattr.")},
                })
    except Exception as error:  # Whatever it is, it is Python's word on this archive.
        return {"error": repr(error), "entries": entries}
    return {"error": None, "entries": entries}


for path in sys.argv[2:]:
    status, message, listing = listed_by_gnu(path)
    reading = {
        "gnu": {"status": status, "message": message, "entries": listing, "files": extracted_by_gnu(path)},
        "python": read_by_python(path),
    }
    print(json.dumps(reading), flush=True)
