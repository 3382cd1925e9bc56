# Reads files in all the ways that loaders do, until told to stop, and compares: BEGUN STOP REPORT MOUNTED=SOURCE...
# BEGUN is made once every way has been gone.
# Every read that fails or brings other bytes than the source's is an error; nothing else ends it.
import json, mmap, os, random, sys, threading, time

begun_file, stop, report = sys.argv[1:4]
pairs = [pair.split("=") for pair in sys.argv[4:]]
truths = [open(source, "rb").read() for _, source in pairs]
errors, waits, counts = [], [], {}

# A read that takes as long has met an interruption.
NOTABLE_S = 0.02

def going():
    return len(errors) < 20 and not os.path.exists(stop)

def timed(kind, read):
    begun = time.time()
    try:
        wrong = read()
    except OSError as error:
        wrong = repr(error)
    took = time.time() - begun
    counts[kind] = counts.get(kind, 0) + 1
    if took > NOTABLE_S:
        waits.append((begun, took))
    if wrong:
        errors.append(f"{kind} at {begun}: {wrong}")

def place(chooser, truth, most):
    length = min(len(truth), chooser.randrange(1, most))
    return chooser.randrange(0, len(truth) - length + 1), length

# One descriptor for the whole time.
def pread(seed):
    chooser = random.Random(seed)
    fds = [os.open(mounted, os.O_RDONLY) for mounted, _ in pairs]
    while going():
        which = chooser.randrange(len(pairs))
        at, length = place(chooser, truths[which], 200000)
        # What the kernel has cached would never come to whoever serves.
        os.posix_fadvise(fds[which], 0, 0, os.POSIX_FADV_DONTNEED)
        timed("pread", lambda: None if os.pread(fds[which], length, at) == truths[which][at:at + length] else f"{pairs[which][0]} {at}")
    for fd in fds:
        os.close(fd)

def reopen(seed):
    chooser = random.Random(seed)
    def read(which, at, length):
        with open(pairs[which][0], "rb", buffering=0) as file:
            file.seek(at)
            return None if file.read(length) == truths[which][at:at + length] else f"{pairs[which][0]} {at}"
    while going():
        which = chooser.randrange(len(pairs))
        at, length = place(chooser, truths[which], 100000)
        timed("reopen", lambda: read(which, at, length))

def mapped(seed):
    chooser = random.Random(seed)
    which = seed % len(pairs)
    fd = os.open(pairs[which][0], os.O_RDONLY)
    with mmap.mmap(fd, len(truths[which]), prot=mmap.PROT_READ) as mapping:
        while going():
            at, length = place(chooser, truths[which], 300000)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            timed("mmap", lambda: None if mapping[at:at + length] == truths[which][at:at + length] else f"{pairs[which][0]} {at}")
    os.close(fd)

def direct(seed):
    chooser = random.Random(seed)
    which = seed % len(pairs)
    fd = os.open(pairs[which][0], os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, 1 << 20)
    def read(at):
        count = os.preadv(fd, [buffer], at)
        expected = truths[which][at:at + len(buffer)]
        return None if count > 0 and buffer[:count] == expected[:count] else f"{pairs[which][0]} {at} {count}"
    while going():
        at = chooser.randrange(0, len(truths[which]) // 4096 + 1) * 4096
        if at < len(truths[which]):
            timed("direct", lambda: read(at))
    os.close(fd)

def names(seed):
    while going():
        for mounted, source in pairs:
            timed("stat", lambda: None if os.stat(mounted).st_size == os.stat(source).st_size else mounted)
            timed("list", lambda: None if os.path.basename(mounted) in os.listdir(os.path.dirname(mounted)) else mounted)
        time.sleep(0.01)

kinds = [pread, pread, reopen, mapped, mapped, mapped, direct, names]
threads = [threading.Thread(target=kind, args=(number,)) for number, kind in enumerate(kinds)]
for thread in threads:
    thread.start()
while going() and len(counts) < 6:
    time.sleep(0.01)
open(begun_file, "w").close()
for thread in threads:
    thread.join()
json.dump({"errors": errors, "waits": waits, "counts": counts}, open(report, "w"))
