# Reads in all ways at once, compared with the source: MOUNTED SOURCE SEED THREADS OPERATIONS_OF_EACH.
import collections, ctypes, mmap, os, random, sys, threading

mounted, source = sys.argv[1:3]
seed, threads, operations = map(int, sys.argv[3:6])

# Calls through ctypes leave the interpreter to the other threads, page faults included.
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
FAILED = ctypes.c_void_p(-1).value
PAGE = 4096


def tree(top):
    return sorted(
        (os.path.relpath(os.path.join(where, name), top), os.stat(os.path.join(where, name)).st_size)
        for where, _, names in os.walk(top)
        for name in names
    )


expected_tree = tree(source)
files = []
for path, size in expected_tree:
    with open(os.path.join(source, path), "rb") as file:
        files.append((path, size, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)))
weights = [size for _, size, _ in files]


def map_at(fd, offset, length):
    address = libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, fd, offset)
    assert address != FAILED, os.strerror(ctypes.get_errno())
    return address


def pread(fd, start, length, expected, _):
    assert os.pread(fd, length, start) == expected


def fault(fd, start, length, _, path):
    skip = start % PAGE
    with open(os.path.join(source, path), "rb") as file:
        ours = map_at(file.fileno(), start - skip, skip + length)
    theirs = map_at(fd, start - skip, skip + length)
    same = libc.memcmp(ours + skip, theirs + skip, length) == 0
    libc.munmap(ours, skip + length)
    libc.munmap(theirs, skip + length)
    assert same


def direct(fd, start, length, _, path):
    opened = os.open(os.path.join(mounted, path), os.O_RDONLY | os.O_DIRECT)
    try:
        start, length = start - start % PAGE, -(-length // PAGE) * PAGE
        buffer = mmap.mmap(-1, length)
        count = os.preadv(opened, [buffer], start)
        with open(os.path.join(source, path), "rb") as file:
            assert buffer[:count] == os.pread(file.fileno(), length, start)
    finally:
        os.close(opened)


def sendfile(fd, start, length, expected, _):
    out = os.memfd_create("out")
    try:
        sent = 0
        while sent < length:
            count = os.sendfile(out, fd, start + sent, length - sent)
            assert count > 0, "an early end"
            sent += count
        assert os.pread(out, length + 1, 0) == expected
    finally:
        os.close(out)


def list_all(fd, start, length, expected, path):
    assert tree(mounted) == expected_tree


ways = {pread: 30, fault: 25, direct: 20, sendfile: 20, list_all: 5}
done = collections.Counter()
failures = []


def work(number):
    chance = random.Random(seed * 1000 + number)
    for step in range(operations):
        (path, size, content), = chance.choices(files, weights)
        (way,) = chance.choices(list(ways), list(ways.values()))
        start = chance.randrange(size)
        longest = chance.choice([64 << 10, 512 << 10, 3 << 20])
        length = min(chance.randint(1, longest), size - start)
        try:
            fd = os.open(os.path.join(mounted, path), os.O_RDONLY)
            try:
                # Otherwise the kernel soon has it all, and the cache nothing to do.
                if chance.random() < 0.8:
                    os.posix_fadvise(fd, start, length, os.POSIX_FADV_DONTNEED)
                way(fd, start, length, content[start : start + length], path)
            finally:
                os.close(fd)
            done[way.__name__] += 1
        except Exception as error:
            failures.append(f"thread {number}, step {step}: {way.__name__} of {length} bytes "
                            f"at {start} of {path}: {error!r}")
            return


workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
print(*(f"{name}={count}" for name, count in sorted(done.items())))
if failures:
    sys.exit("\n".join(failures))
