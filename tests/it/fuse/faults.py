# 128 threads fault one mapping while eight read: MOUNTED SOURCE.
import ctypes, mmap, os, random, sys, threading

mounted, source = sys.argv[1:3]
expected = open(source, "rb").read()
size = len(expected)
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
# Foreign functions run without the interpreter's lock, so the faults really come at once.
libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
fd = os.open(mounted, os.O_RDONLY)
address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
truth = ctypes.create_string_buffer(expected, size)
start = threading.Barrier(136)
wrong = []

def fault(seed):
    order = list(range(0, size, 65536))
    random.Random(seed).shuffle(order)
    start.wait()
    for offset in order:
        length = min(65536, size - offset)
        if libc.memcmp(address + offset, ctypes.addressof(truth) + offset, length) != 0:
            wrong.append(("fault", offset))

def read(seed):
    chosen = random.Random(seed)
    start.wait()
    for _ in range(50):
        offset = chosen.randrange(size)
        if os.pread(fd, 100_000, offset) != expected[offset:offset + 100_000]:
            wrong.append(("pread", offset))

threads = [threading.Thread(target=fault, args=(n,)) for n in range(128)]
threads += [threading.Thread(target=read, args=(n,)) for n in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong, wrong[:5]
print("128 threads")
