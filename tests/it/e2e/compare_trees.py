"""Compares two directory trees in everything that stat, readlink, listxattr and read tell of them.

compare_trees.py A B [--ignore FIELD[:PATH]]... [--whole-seconds] [--show COUNT]

Prints the first 20 differences and exits 1; prints what was compared and exits 0 when there are none. FIELD is one
of those below; PATH, relative to the trees, keeps the exception to itself, and `PATH/` to what is below it. An
exception that has nothing to except is an error too: it would hide something one day. With --whole-seconds, times
are compared without what is below the second.

The size of a directory is not compared, since each file system counts it in its own way. Neither are the attributes
in user.refmount.*, in which a mount tells of itself.
"""

import argparse
import hashlib
import os
import stat
import sys

FIELDS = ("there", "type", "mode", "owner", "mtime", "target", "nlink", "links", "rdev", "xattrs", "size", "content")
KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFCHR: "character device",
         stat.S_IFBLK: "block device", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}
OWN_XATTRS = "user.refmount."


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def xattrs(path):
    names = [name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith(OWN_XATTRS)]
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(names)}


def facts(path, status):
    kind = KINDS[stat.S_IFMT(status.st_mode)]
    told = {
        "there": True,
        "type": kind,
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "owner": f"{status.st_uid}:{status.st_gid}",
        "mtime": f"{status.st_mtime_ns // 10**9}.{status.st_mtime_ns % 10**9:09}",
        "nlink": status.st_nlink,
        "xattrs": xattrs(path),
    }
    if kind == "symlink":
        told["target"] = os.readlink(path)
    if kind.endswith("device"):
        told["rdev"] = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    if kind in ("file", "symlink"):
        told["size"] = status.st_size
    return told


class Tree:
    """The facts of a tree by path, and which paths share an inode. Contents are read when they are asked for."""

    def __init__(self, root):
        self.root = root
        self.entries = {}
        self.inodes = {}
        inode_of = {}
        pending = [b""]
        while pending:
            directory = pending.pop()
            with os.scandir(self.at(directory)) as listing:
                # Of a mount whose layers are still being read, a directory that has been listed is known whole.
                found = list(listing)
                self.add(directory, os.lstat(self.at(directory)), inode_of)
                for entry in found:
                    path = os.path.join(directory, entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(path)
                    else:
                        self.add(path, entry.stat(follow_symlinks=False), inode_of)
        for path, inode in inode_of.items():
            group = self.inodes[inode]
            if len(group) > 1:
                self.entries[path]["links"] = tuple(sorted(group))

    def add(self, path, status, inode_of):
        self.entries[path] = facts(self.at(path), status)
        if not stat.S_ISDIR(status.st_mode):
            inode_of[path] = (status.st_dev, status.st_ino)
            self.inodes.setdefault(inode_of[path], []).append(path)

    def at(self, path):
        return os.path.join(self.root, path) if path else self.root


class Exceptions:
    """What may differ, and whether it did."""

    def __init__(self, texts):
        self.used = {}
        for text in texts:
            field, _, path = text.partition(":")
            if field.removeprefix("directory-") not in FIELDS:
                sys.exit(f"no such field: {field}")
            self.used[(field, os.fsencode(path))] = False

    def allow(self, field, path, kinds):
        fields = [field] + ([f"directory-{field}"] if kinds == {"directory"} else [])
        places = [b"", path or b"."] + [path[: n + 1] for n in range(len(path)) if path[n : n + 1] == b"/"]
        allowed = [(f, place) for f in fields for place in places if (f, place) in self.used]
        for key in allowed:
            self.used[key] = True
        return bool(allowed)

    def unused(self):
        return [f"{field}:{os.fsdecode(path)}" for (field, path), used in self.used.items() if not used]


def compare(left, right, exceptions, whole_seconds):
    """Yields (path, field, value left, value right)."""
    for path in sorted(left.entries.keys() | right.entries.keys()):
        a, b = left.entries.get(path), right.entries.get(path)
        if a is None or b is None:
            if not exceptions.allow("there", path, set()):
                yield path, "there", a is not None, b is not None
            continue
        if a["type"] == b["type"] == "file" and a["size"] == b["size"]:
            a["content"], b["content"] = sha256(left.at(path)), sha256(right.at(path))
        if whole_seconds:
            a["mtime"], b["mtime"] = whole_seconds_of(a["mtime"], b["mtime"])
        for field in FIELDS:
            if a.get(field) != b.get(field) and not exceptions.allow(field, path, {a["type"], b["type"]}):
                yield path, field, a.get(field), b.get(field)


def whole_seconds_of(left, right):
    """The seconds of both. The right one may have been rounded to them, down or to the nearest."""
    (seconds, rest), whole = left.split("."), right.split(".")[0]
    nearest = int(seconds) + (int(rest) >= 500_000_000)
    return (whole if str(nearest) == whole else seconds), whole


def shown(value):
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("left")
    parser.add_argument("right")
    parser.add_argument("--ignore", action="append", default=[])
    parser.add_argument("--whole-seconds", action="store_true")
    parser.add_argument("--show", type=int, default=20)
    arguments = parser.parse_args()
    left, right = Tree(os.fsencode(arguments.left)), Tree(os.fsencode(arguments.right))
    exceptions = Exceptions(arguments.ignore)
    differences = 0
    for path, field, a, b in compare(left, right, exceptions, arguments.whole_seconds):
        differences += 1
        if differences <= arguments.show:
            print(f"{shown(path)}: {field}: {shown(a)} and {shown(b)}")
    if differences > arguments.show:
        print(f"… and {differences - arguments.show} more")
    unused = exceptions.unused()
    if unused:
        print("exceptions that except nothing:", *unused)
    if differences or unused:
        sys.exit(1)
    files = sum(entry["type"] == "file" for entry in left.entries.values())
    size = sum(entry["size"] for entry in left.entries.values() if entry["type"] == "file")
    print(f"{len(left.entries)} entries are the same, {files} of them files with {size} bytes")


if __name__ == "__main__":
    main()
