"""make_archives.py SEED DIR: archives in every dialect that GNU tar and Python can write, one file each.

Everything follows from SEED. What a dialect cannot hold, its writer leaves out with a message.
"""

import io
import os
import random
import subprocess
import sys
import tarfile

seed, out = int(sys.argv[1]), sys.argv[2]
rng = random.Random(seed)
tree = os.path.join(out, "tree")
os.makedirs(tree)


def name(length):
    letters = "abcdefghijklmnopqrstuvwxyz0123456789 =.-_%äß\n\\\""
    text = "".join(rng.choice(letters) for _ in range(length)).strip("./ ") or "x"
    # Names are at most 255 bytes long.
    while len(text.encode()) > 250:
        text = text[:-1]
    return text


def sparse_file(path, pieces, size):
    with open(path, "wb") as file:
        for offset, length in pieces:
            file.seek(offset)
            file.write(rng.randbytes(length))
        file.truncate(size)


def stamp(path):
    nanoseconds = rng.choice([0, 1, 999_999_999, 500_000_000, rng.randrange(10**9)])
    seconds = rng.choice([0, 1, 1_700_000_000, rng.randrange(2**31)])
    os.utime(path, ns=(0, seconds * 10**9 + nanoseconds))


def make_tree():
    directories = [tree]
    for _ in range(12):
        path = os.path.join(rng.choice(directories), name(rng.choice([3, 10, 60, 120])))
        if not os.path.exists(path):
            os.mkdir(path)
            os.chmod(path, rng.choice([0o755, 0o700, 0o1777, 0o2750]))
            directories.append(path)
    files = []
    for index in range(30):
        path = os.path.join(rng.choice(directories), name(rng.choice([1, 8, 99, 100, 101, 240])) + str(index))
        with open(path, "wb") as file:
            file.write(rng.randbytes(rng.choice([0, 1, 511, 512, 513, 5000, rng.randrange(100_000)])))
        os.chmod(path, rng.choice([0o644, 0o755, 0o4755, 0o600, 0o444]))
        stamp(path)
        files.append(path)
    for index in range(8):
        at = os.path.join(rng.choice(directories), f"link{index}")
        if index % 2:
            os.link(rng.choice(files), at)
        else:
            os.symlink(name(rng.choice([1, 99, 100, 101, 250])) + "/x" * rng.choice([0, 80]), at)
    os.mkfifo(os.path.join(rng.choice(directories), "fifo"))
    for index, path in enumerate(rng.sample(files, 5)):
        if index == 0:
            os.setxattr(path, "user.empty", b"")
        os.setxattr(path, "user." + name(5).replace("\n", "_"), rng.randbytes(rng.choice([1, 40, 3000])))
    hole, block = 1 << 14, 4096
    many = [(i * hole, block) for i in range(60)]
    maps = {
        "head": ([(0, block)], 20 * hole),
        "tail": ([(20 * hole, block + 7)], 20 * hole + block + 7),
        "middle": ([(3 * hole, block), (9 * hole, 2 * block)], 20 * hole),
        "hole": ([], 20 * hole),
        "many": (many, 60 * hole),
        "long-" + "n" * 120: (many[1:30], 60 * hole + 1),
        "full": ([(0, 3 * block)], 3 * block),
    }
    for label, (pieces, size) in maps.items():
        sparse_file(os.path.join(tree, "sparse-" + label), pieces, size)
        stamp(os.path.join(tree, "sparse-" + label))
    for directory in reversed(directories):
        stamp(directory)


def with_gnu_tar():
    variants = {
        "v7": ["--format=v7"],
        "ustar": ["--format=ustar"],
        "oldgnu": ["--format=oldgnu", "--sparse"],
        "gnu": ["--format=gnu"],
        "gnu-sparse": ["--format=gnu", "--sparse"],
        "gnu-incremental-times": ["--format=gnu", "--atime-preserve"],
        "pax": ["--format=pax", "--xattrs"],
        "pax-numbers": ["--format=pax", "--owner=:3000000000", "--group=:4294967294", "--mtime=@-1.25"],
        "pax-no-times": ["--format=pax", "--pax-option=delete=atime,delete=ctime"],
        "pax-global": ["--format=pax", "--pax-option=globexthdr.name=g,gid=77,comment=a=b"],
        "gnu-numbers": ["--format=gnu", "--owner=:3000000000", "--group=:4294967294", "--mtime=@-1000000000"],
        "gnu-huge-time": ["--format=gnu", "--mtime=@99999999999"],
    }
    for version in ["0.0", "0.1", "1.0"]:
        variants["pax-sparse-" + version] = ["--format=pax", "--sparse", "--sparse-version=" + version, "--xattrs"]
    for label, options in variants.items():
        command = ["tar", "-C", tree, "--sort=name", *options, "-cf", os.path.join(out, label + ".tar"), "."]
        # What the dialect cannot hold is left out: status 2.
        status = subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode
        assert status in (0, 2), command
    twice = os.path.join(out, "appended.tar")
    small = os.path.join(out, "small")
    with open(small, "wb") as file:
        file.write(b"first")
    for content in (b"first", b"second, longer", b""):
        with open(small, "wb") as file:
            file.write(content)
        subprocess.run(["tar", "-C", out, "-rf", twice, "small"], check=True)
    subprocess.run(["tar", "-cf", os.path.join(out, "empty.tar"), "-T", "/dev/null"], check=True)


def member(index, is_pax, is_gnu):
    info = tarfile.TarInfo("dir/" + name(rng.choice([1, 20, 90])).replace("\n", "_") + str(index))
    kinds = [tarfile.REGTYPE] * 6 + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]
    info.type = rng.choice(kinds + [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE])
    info.mode = rng.randrange(0o10000)
    big = is_pax or is_gnu
    info.uid = rng.choice([0, 1000, 0o7777777] + ([0o10000000, 2**32 - 2] if big else []))
    info.gid = rng.choice([0, 1000, 0o7777777] + ([0o10000000, 2**32 - 2] if big else []))
    info.mtime = rng.choice([0, 1_700_000_000] + ([-1, -(10**10), 10**11] if big else []))
    if is_pax:
        info.mtime = rng.choice([info.mtime, 1.5, -1.5, -0.25, 1234567890.015625])
        info.pax_headers = {"comment": "a\n11 size=7\n=b", "VENDOR.x=y": "1"} if rng.random() < 0.3 else {}
        if rng.random() < 0.4:
            info.pax_headers["SCHILY.xattr.user." + rng.choice("ab")] = rng.choice(["", "v\n=\n", "30 mtime=1\n"])
    if big and rng.random() < 0.3:
        info.name += "/" + "/".join(name(40).replace("\n", "_") for _ in range(rng.choice([2, 6, 30])))
        if is_pax:
            info.name += "\n20 path=x"
    if info.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        info.devmajor, info.devminor = rng.randrange(4096), rng.randrange(0o7777777)
    if info.type == tarfile.SYMTYPE:
        info.linkname = "../" * rng.choice([0, 3]) + name(rng.choice([1, 40, 95])).replace("\n", "_")
        info.linkname = info.linkname.encode()[:95].decode(errors="ignore")
        if big and rng.random() < 0.5:
            info.linkname += "/x" * 100
    return info


def with_python():
    formats = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
    for label, dialect in formats.items():
        with tarfile.open(os.path.join(out, f"python-{label}.tar"), "w", format=dialect) as archive:
            files = []
            for index in range(60):
                info = member(index, label == "pax", label == "gnu")
                # Duplicates are files: GNU tar extracts none over a directory, and links that lead out at its very end.
                if files and info.isreg() and rng.random() < 0.2:
                    info.name = rng.choice(files)
                if info.type == tarfile.AREGTYPE and len(info.name.encode()) > 99:
                    # Cut off after a slash, its name in the header makes it a directory to Python, and to nobody else.
                    info.type = tarfile.REGTYPE
                content = b""
                if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
                    content = rng.randbytes(rng.choice([0, 1, 512, 700, 9000]))
                    info.size = len(content)
                    files.append(info.name)
                if info.type == tarfile.LNKTYPE:
                    if not files:
                        continue
                    info.linkname = rng.choice(files)
                try:
                    archive.addfile(info, io.BytesIO(content))
                except ValueError:
                    # Too long for this dialect.
                    assert label == "ustar"
                    if info.name in files:
                        files.remove(info.name)


make_tree()
with_gnu_tar()
with_python()
