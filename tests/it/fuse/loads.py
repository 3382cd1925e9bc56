# The ways in which loaders of models read a file: MOUNTED SOURCE.
import ctypes, mmap, os, sys

mounted, source = sys.argv[1:3]
expected = open(source, "rb").read()
size = len(expected)
done = []

fd = os.open(mounted, os.O_RDONLY)
with mmap.mmap(fd, size, prot=mmap.PROT_READ) as mapping:
    assert mapping[:] == expected, "mmap"
    done.append("mmap")

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, 0)
MADV_POPULATE_READ = 22
assert libc.madvise(address, size, MADV_POPULATE_READ) == 0, os.strerror(ctypes.get_errno())
assert ctypes.string_at(address, size) == expected, "populate"
done.append("populate")

direct = os.open(mounted, os.O_RDONLY | os.O_DIRECT)
buffer = mmap.mmap(-1, 1 << 20)
position = 0
while position < size:
    count = os.preadv(direct, [buffer], position)
    assert count > 0 and buffer[:count] == expected[position:position + count], ("direct", position)
    position += count
assert os.preadv(direct, [buffer], (size + 4095) // 4096 * 4096) == 0
done.append("direct")

os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
out = os.memfd_create("out")
offset = 0
while offset < size:
    count = os.sendfile(out, fd, offset, size - offset)
    assert count > 0, ("sendfile", offset)
    offset += count
assert os.pread(out, size + 1, 0) == expected, "sendfile"
done.append("sendfile")
print(*done)
