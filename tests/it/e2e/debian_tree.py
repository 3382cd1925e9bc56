"""What an image from a Debian root file system has to hold, beyond what Debian puts into it.

debian_tree.py base ROOT          adds everything a tar can hold to the unpacked ROOT, as root
debian_tree.py change ROOT        changes ROOT, for a tool that makes a layer of the difference
debian_tree.py overlay LAYER      writes a layer as tar that no such tool writes, though the specification allows it
debian_tree.py whiteouts ROOT     makes a directory of files and whiteouts, for GNU tar to make a layer of
debian_tree.py sparse ROOT        makes a directory of sparse files, for a layer that eStargz's converter cannot take
debian_tree.py gnu ROOT           makes a directory of what only GNU tar writes in its own dialect

Each is always the same. The second layer up relies on what the ones below it made.
"""

import io
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import tarfile

ODD = b"srv/odd"

# 2023-11-14 22:13:20, and a part of a second that a double cannot hold.
NANOSECONDS = 1_700_000_000_123_456_789


def write(root, path, content=b"", mode=0o644, uid=0, gid=0, mtime=NANOSECONDS):
    full = os.path.join(root, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "wb") as file:
        file.write(content)
    os.chown(full, uid, gid)
    os.chmod(full, mode)
    os.utime(full, ns=(mtime, mtime))
    return full


def symlink(root, path, target, mtime=NANOSECONDS):
    full = os.path.join(root, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    os.symlink(target, full)
    os.utime(full, ns=(mtime, mtime), follow_symlinks=False)
    return full


def random_bytes(seed, size):
    return random.Random(seed).randbytes(size)


def sparse(root, path, size, parts, mode=0o644):
    full = write(root, path, mode=mode)
    with open(full, "r+b") as file:
        for offset, content in parts:
            file.seek(offset)
            file.write(content)
        file.truncate(size)
    os.utime(full, ns=(NANOSECONDS, NANOSECONDS))


def stamp_directories(root):
    """Every directory below gets a time of its own, with nanoseconds."""
    for number, (path, _, _) in enumerate(os.walk(root, topdown=False)):
        time = NANOSECONDS - number * 1_000_000_007
        os.utime(path, ns=(time, time))


def base(root):
    odd = os.path.join(root, ODD)
    os.makedirs(odd)
    devices(root)
    links(root)
    names(root)
    attributes(root)
    for size in (0, 1, 511, 512, 513, 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1):
        write(root, b"%s/sizes/%d" % (ODD, size), random_bytes(size, size))
    write(root, ODD + b"/large.bin", random_bytes(1, 9_000_001))
    for mode in (0o000, 0o400, 0o644, 0o755, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777):
        write(root, b"%s/modes/%04o" % (ODD, mode), b"mode", mode=mode)
    for name, mode in ((b"sticky", 0o1777), (b"setgid", 0o2775), (b"closed", 0o000)):
        write(root, ODD + b"/directories/" + name + b"/file", b"inside")
        os.chmod(os.path.join(odd, b"directories", name), mode)
    os.makedirs(os.path.join(odd, b"directories/empty"))
    os.makedirs(os.path.join(odd, b"unlisted"))
    for uid, gid in ((1, 2), (65534, 65534), (3_000_000, 2_097_152), (1_234_567_890, 4_000_000_000)):
        write(root, b"%s/owners/%d-%d" % (ODD, uid, gid), b"owner", uid=uid, gid=gid)
    times = (0, 1, 999_999_999, -1_500_000_000, 253_402_300_799_000_000_000 // 100, 4_294_967_296_000_000_001)
    for number, time in enumerate(times):
        write(root, b"%s/times/%d" % (ODD, number), b"time", mtime=time)
    for number in range(40):
        write(root, b"%s/lower/tree/%d/file" % (ODD, number % 7), b"%d" % number)
        write(root, b"%s/lower/file-%d" % (ODD, number), b"lower %d" % number)
    for name in (b"opaque", b"opaque-late", b"opaque-empty", b"replaced-by-file", b"cleared"):
        for number in range(5):
            write(root, b"%s/%s/below/%d" % (ODD, name, number), b"%d" % number)
            write(root, b"%s/%s/%d" % (ODD, name, number), b"%d" % number)
    for name in (b"file-to-directory", b"file-to-symlink", b"mode", b"owner", b"xattr", b"time", b"grown"):
        write(root, ODD + b"/change/" + name, b"unchanged content of " + name)
    for name in (b"symlink-to-file", b"symlink-to-directory", b"symlink-removed", b"symlink-other"):
        symlink(root, ODD + b"/change/" + name, b"mode")
    symlink(root, ODD + b"/change/link-to-tree", b"../lower/tree")
    symlink(root, ODD + b"/change/link-to-opaque", b"../opaque")
    stamp_directories(odd)
    os.utime(os.path.join(odd, b"unlisted"), ns=(NANOSECONDS, NANOSECONDS))


def devices(root):
    directory = os.path.join(root, ODD, b"devices")
    os.makedirs(directory)
    for name, kind, device in (
        (b"null", stat.S_IFCHR, os.makedev(1, 3)),
        (b"high", stat.S_IFCHR, os.makedev(0x7AB, 0x1_2345)),
        (b"loop", stat.S_IFBLK, os.makedev(7, 0)),
        # Not 0:0: to overlayfs, and to tools that use it, that one is a whiteout.
        (b"zero", stat.S_IFCHR, os.makedev(1, 0)),
    ):
        os.mknod(os.path.join(directory, name), 0o640 | kind, device)
    os.mkfifo(os.path.join(directory, b"fifo"), 0o622)
    for name in os.listdir(directory):
        os.utime(os.path.join(directory, name), ns=(NANOSECONDS, NANOSECONDS))


def links(root):
    odd = os.path.join(root, ODD)
    for group, size in ((b"hard", 100), (b"hard-large", 2_500_000), (b"hard-empty", 0)):
        first = write(root, b"%s/%s/first" % (ODD, group), random_bytes(size, size), uid=7)
        os.makedirs(os.path.join(odd, group, b"inner"))
        for name in (b"second", b"inner/third", b"a-before-first"):
            os.link(first, os.path.join(odd, group, name))
    for name, target in (
        (b"relative", b"../hard/first"),
        (b"absolute", b"/srv/odd/hard/first"),
        (b"dangling", b"nowhere/at/all"),
        (b"outside", b"../../../../../../../../etc/passwd"),
        (b"itself", b"itself"),
        (b"root", b"/"),
        (b"directory", b"../lower"),
        (b"long", b"/".join([b"x" * 200] * 15)),
        (b"odd", b"a\nb \xff\xfe"),
    ):
        symlink(root, ODD + b"/symlinks/" + name, target)
    os.link(os.path.join(odd, b"symlinks/relative"), os.path.join(odd, b"symlinks/relative-again"),
            follow_symlinks=False)


def names(root):
    for number, name in enumerate((
        b"new\nline", b"tab\ttab", b"\xff\xfe not UTF-8", "Ünïcödé 日本語 🚀".encode(), b"n" * 255,
        b" leading and trailing ", b"-dash", b"back\\slash", b"\"quotes'", b"*?[glob]", b"percent%41%",
        b"equals=sign", b"wh.not-a-whiteout", b".whiteout-of-nothing", b"...", b"..data", b"\x01\x02\x7f",
    )):
        write(root, ODD + b"/names/" + name, b"%d" % number)
        write(root, ODD + b"/names/in/" + name + b"/file", b"%d" % number)
    deep = b"/".join([ODD, b"deep"] + [b"%02d" % level + b"d" * 98 for level in range(20)])
    write(root, deep + b"/bottom", b"bottom")
    symlink(root, deep + b"/symlink", b"../bottom")
    # At the bounds of the name and prefix fields of a header.
    for length in (99, 100, 101, 154, 155, 156):
        write(root, ODD + b"/lengths/" + b"l" * length, b"%d" % length)
        write(root, ODD + b"/lengths/" + b"p" * length + b"/" + b"f" * 100, b"%d" % length)


def attributes(root):
    odd = os.path.join(root, ODD)
    directory = os.path.join(odd, b"xattrs")
    plain = write(root, ODD + b"/xattrs/file", b"attributes")
    for name, value in (
        ("user.text", b"value"), ("user.binary", b"\0\n=\xff 12 a=b\n\0"),
        ("user.name with spaces", b"1"), ("user.long", random_bytes(3, 1500)), ("trusted.odd", b"trusted"),
    ):
        os.setxattr(plain, name, value)
    os.setxattr(directory, "user.on-directory", b"d")
    os.setxattr(directory, "trusted.on-directory", b"d")
    capable = write(root, ODD + b"/xattrs/capable", b"#!/bin/true\n", mode=0o755)
    # No shell: names are bytes.
    subprocess.run(["setcap", b"cap_net_raw,cap_net_bind_service+ep", capable], check=True)
    pointer = symlink(root, ODD + b"/xattrs/symlink", b"file")
    os.setxattr(pointer, "trusted.on-symlink", b"s", follow_symlinks=False)
    removed = write(root, ODD + b"/xattrs/removed", b"attributes that a layer takes away")
    os.setxattr(removed, "user.goes", b"1")
    os.setxattr(removed, "user.stays", b"2")
    empty = write(root, ODD + b"/xattrs/empty", b"an empty value")
    os.setxattr(empty, "user.empty", b"")
    first = write(root, ODD + b"/xattrs/linked", b"linked")
    os.setxattr(first, "user.linked", b"1")
    os.link(first, os.path.join(odd, b"xattrs/linked-again"))
    for path in (plain, capable, removed, empty, first):
        os.utime(path, ns=(NANOSECONDS, NANOSECONDS))


def change(root):
    odd = os.path.join(root, ODD)
    at = lambda path: os.path.join(odd, b"change", path)
    manuals = os.path.join(root, b"usr/share/man/man3")
    for name in sorted(os.listdir(manuals))[:500]:
        os.unlink(os.path.join(manuals, name))
    shutil.rmtree(os.path.join(root, b"usr/share/man/man2"))
    shutil.rmtree(os.path.join(odd, b"lower/tree/3"))
    os.unlink(os.path.join(odd, b"lower/file-1"))
    os.unlink(at(b"symlink-removed"))
    # One link of a group goes, another becomes a file of its own; the rest must not notice.
    os.unlink(os.path.join(odd, b"hard/second"))
    os.unlink(os.path.join(odd, b"hard-large/first"))
    write(root, ODD + b"/hard-large/first", b"no longer linked")
    for name in (b"file-to-directory", b"file-to-symlink", b"symlink-to-file", b"symlink-to-directory", b"symlink-other"):
        os.unlink(at(name))
    for number in range(3):
        write(root, b"%s/change/file-to-directory/inner/%d" % (ODD, number), b"new")
        write(root, b"%s/change/symlink-to-directory/%d" % (ODD, number), b"new")
    symlink(root, ODD + b"/change/file-to-symlink", b"grown")
    symlink(root, ODD + b"/change/symlink-other", b"grown")
    write(root, ODD + b"/change/symlink-to-file", b"a file now")
    shutil.rmtree(os.path.join(odd, b"replaced-by-file"))
    write(root, ODD + b"/replaced-by-file", b"no longer a directory")
    os.chmod(at(b"mode"), 0o4711)
    os.chown(at(b"owner"), 1000, 1001)
    os.setxattr(at(b"xattr"), "user.added", b"added")
    os.utime(at(b"time"), ns=(NANOSECONDS + 1, NANOSECONDS + 1))
    write(root, ODD + b"/change/grown", random_bytes(4, 3_000_000))
    removed = os.path.join(odd, b"xattrs/removed")
    os.removexattr(removed, "user.goes")
    os.setxattr(removed, "user.stays", b"changed")
    os.utime(removed, ns=(NANOSECONDS + 2, NANOSECONDS + 2))
    # A directory of which only the mode changes keeps what is in it.
    os.chmod(os.path.join(odd, b"lower/tree"), 0o700)
    for number in range(300):
        write(root, b"opt/added/%d/%d.txt" % (number % 10, number), b"added %d" % number)
    stamp_directories(os.path.join(root, b"opt/added"))
    os.utime(at(b""), ns=(NANOSECONDS + 3, NANOSECONDS + 3))


class Layer:
    """A tar written entry by entry, each in the dialect it is asked for."""

    def __init__(self, path):
        self.file = open(path, "wb")

    def add(self, name, kind=tarfile.REGTYPE, content=b"", *, link="", mode=None, uid=0, gid=0,
            mtime="1700000000.123456789", pax=None, dialect=tarfile.PAX_FORMAT):
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, len(content)
        info.mode = mode if mode is not None else (0o755 if kind == tarfile.DIRTYPE else 0o644)
        info.uid, info.gid = uid, gid
        info.mtime = int(mtime.split(".")[0])
        if dialect == tarfile.PAX_FORMAT:
            info.pax_headers = {"mtime": mtime, **(pax or {})}
        self.file.write(info.tobuf(dialect, "utf-8", "surrogateescape"))
        self.file.write(content + bytes(-len(content) % 512))

    def directory(self, name, **more):
        self.add(name, tarfile.DIRTYPE, **more)

    def whiteout(self, name):
        directory, _, file = name.rpartition("/")
        self.add(f"{directory}/.wh.{file}", mtime="1700000000")

    def opaque(self, name):
        self.add(f"{name}/.wh..wh..opq", mtime="1700000000")

    def close(self):
        self.file.write(bytes(1024))
        self.file.close()


def overlay(path):
    odd = ODD.decode()
    layer = Layer(path)
    # A whiteout spares its own layer, whether it stands before or after what it names.
    layer.whiteout(f"{odd}/lower/file-2")
    layer.add(f"{odd}/lower/file-2", content=b"whiteout before")
    layer.add(f"{odd}/lower/file-3", content=b"whiteout after")
    layer.whiteout(f"{odd}/lower/file-3")
    layer.whiteout(f"{odd}/lower/file-4")
    layer.whiteout(f"{odd}/lower/never-was")
    layer.whiteout(f"{odd}/lower/tree/4")
    # The tree goes, and comes back with less in it.
    layer.whiteout(f"{odd}/lower/tree/5")
    layer.directory(f"{odd}/lower/tree/5/", mode=0o711, uid=5)
    layer.add(f"{odd}/lower/tree/5/new", content=b"new")
    layer.directory(f"{odd}/opaque/", mode=0o750, gid=9)
    layer.opaque(f"{odd}/opaque")
    layer.add(f"{odd}/opaque/kept", content=b"after the mark")
    layer.directory(f"{odd}/opaque-late/")
    layer.add(f"{odd}/opaque-late/kept", content=b"before the mark")
    layer.add(f"{odd}/opaque-late/1", content=b"a name that is below too")
    layer.opaque(f"{odd}/opaque-late")
    layer.directory(f"{odd}/opaque-empty/")
    layer.opaque(f"{odd}/opaque-empty")
    layer.directory(f"{odd}/opaque-new/")
    layer.opaque(f"{odd}/opaque-new")
    layer.add(f"{odd}/opaque-new/file", content=b"nothing was below")
    # Without an entry for the directory itself, which keeps its owner and times.
    layer.opaque(f"{odd}/cleared")
    layer.directory(f"{odd}/across/")
    # Hard links to what lower layers hold, to what this one holds, and to a link.
    layer.add(f"{odd}/across/to-base", tarfile.LNKTYPE, link=f"{odd}/large.bin")
    layer.add(f"{odd}/across/to-change", tarfile.LNKTYPE, link=f"{odd}/change/grown")
    layer.add(f"{odd}/across/to-link", tarfile.LNKTYPE, link=f"{odd}/hard/inner/third", uid=7)
    layer.add(f"{odd}/across/own", content=b"own", uid=3)
    layer.add(f"{odd}/across/to-own", tarfile.LNKTYPE, link=f"{odd}/across/own", uid=3)
    layer.add(f"{odd}/across/to-symlink", tarfile.LNKTYPE, link=f"{odd}/symlinks/dangling")
    layer.add(f"{odd}/across/to-fifo", tarfile.LNKTYPE, link=f"{odd}/devices/fifo", mode=0o622)
    layer.add(f"{odd}/across/to-dotted", tarfile.LNKTYPE, link=f"./{odd}/sizes/513")
    # Debian's /lib and /bin are links into /usr; packages made elsewhere do not know.
    layer.add("lib/e2e-added", content=b"through a link to a directory")
    layer.directory("lib/e2e-directory/")
    layer.add("lib/e2e-directory/file", content=b"below a new directory")
    layer.add("bin/e2e-tool", content=b"#!/bin/sh\n", mode=0o755)
    layer.whiteout("sbin/e2e-never-was")
    layer.add(f"{odd}/change/link-to-opaque/through", content=b"into what this layer made opaque")
    # A directory takes the place of a link to one.
    layer.directory(f"{odd}/change/link-to-tree/", mode=0o700)
    layer.add(f"{odd}/change/link-to-tree/file", content=b"not in lower/tree")
    # Parents that no entry declares.
    layer.add(f"{odd}/unlisted/one/two/file", content=b"deep")
    # The last entry of a name counts.
    layer.add(f"{odd}/twice/file", content=b"first, and longer")
    layer.add(f"{odd}/twice/file", content=b"second", mode=0o600, uid=2)
    layer.directory(f"{odd}/twice/kinds/")
    layer.add(f"{odd}/twice/kinds", content=b"a file after all")
    layer.add(f"{odd}/twice/link", tarfile.SYMTYPE, link="file")
    layer.add(f"{odd}/twice/link", content=b"a file after a link")
    layer.directory(f"{odd}/twice/", mode=0o755)
    layer.directory(f"{odd}/twice/", mode=0o775, uid=11)
    # Names as other tools write them.
    layer.directory(f"{odd}/dotted")
    layer.add(f"./{odd}//dotted/./file", content=b"normalised")
    layer.add(f"{odd}/ustar", content=b"ustar", dialect=tarfile.USTAR_FORMAT)
    layer.add(f"{odd}/gnu-{'g' * 120}", content=b"GNU long name", dialect=tarfile.GNU_FORMAT)
    layer.add(f"{odd}/gnu-link", tarfile.SYMTYPE, link="t" * 150, dialect=tarfile.GNU_FORMAT)
    layer.add(f"{odd}/old", tarfile.AREGTYPE, content=b"the old type of a file", dialect=tarfile.USTAR_FORMAT)
    layer.add(f"{odd}/attributed", content=b"xattrs", pax={
        "SCHILY.xattr.user.from-pax": "v\nw=x", "SCHILY.xattr.trusted.from-pax": "t", "comment": "ignored"})
    # Metadata alone.
    layer.directory("srv/", mode=0o711, uid=12, gid=13)
    layer.close()


def whiteouts(root):
    """A layer as a directory: the marks are files, so that any tar can pack it."""
    os.makedirs(root)
    mark = lambda path: write(root, path)
    mark(ODD + b"/lower/.wh.file-5")
    mark(ODD + b"/lower/.wh.file-2")
    mark(ODD + b"/across/.wh.to-base")
    mark(ODD + b"/.wh.hard-empty")
    mark(ODD + b"/opaque-late/.wh..wh..opq")
    mark(b"usr/share/doc/.wh..wh..opq")
    write(root, b"usr/share/doc/README", b"documentation removed")
    mark(b"opt/.wh.added")
    mark(ODD + b"/change/.wh.file-to-directory")
    write(root, ODD + b"/change/mode", b"replaced", mode=0o640)
    write(root, ODD + b"/gnu/" + b"N" * 200 + b"/" + b"M" * 200, b"long name")
    symlink(root, ODD + b"/gnu/symlink", b"/".join([b"y" * 100] * 3))
    whole_seconds(root)


def sparse_files(root):
    sparse(root, b"sparse/middle", 64 << 20, [(0, b"start"), (10 << 20, random_bytes(2, 300_000))])
    sparse(root, b"sparse/end", 5_000_003, [(5_000_000, b"end")])
    sparse(root, b"sparse/hole", 3 << 20, [])
    sparse(root, b"sparse/many", 4 << 20, [(n << 16, b"%d" % n) for n in range(0, 64, 2)])
    write(root, b"sparse/" + b"s" * 200, random_bytes(7, 100), mode=0o600)
    stamp_directories(root)


def gnu(root):
    os.makedirs(root)
    # More parts than a header, and than the one block after it, have room for.
    sparse(root, b"sparse/parts", 8 << 20, [(n << 17, random_bytes(n, 5000)) for n in range(0, 60, 2)])
    sparse(root, b"sparse/start", 2 << 20, [(0, b"start")])
    sparse(root, b"sparse/end", 5_000_003, [(5_000_000, b"end")])
    sparse(root, b"sparse/hole", 3 << 20, [])
    write(root, b"before", random_bytes(5, 70_000))
    write(root, b"z-after", random_bytes(6, 70_000))
    write(root, b"N" * 200 + b"/" + b"M" * 200, b"long name")
    os.link(os.path.join(root, b"before"), os.path.join(root, b"N" * 200, b"linked"))
    symlink(root, b"symlink", b"/".join([b"y" * 100] * 3))
    write(root, b"owner", b"in base 256", uid=3_000_000, gid=4_000_000_000)
    whole_seconds(root)


def whole_seconds(root):
    """The headers of GNU's dialect hold no more."""
    for path, directories, files in os.walk(root, topdown=False):
        for name in [b"."] + directories + files:
            os.utime(os.path.join(path, name), (1_650_000_000, 1_650_000_000), follow_symlinks=False)


if __name__ == "__main__":
    steps = {"base": base, "change": change, "overlay": overlay, "whiteouts": whiteouts, "sparse": sparse_files, "gnu": gnu}
    steps[sys.argv[1]](os.fsencode(sys.argv[2]))
