# Tries to change a mount in every way: TARGET.
import errno, os, sys

root = sys.argv[1]
file = os.path.join(root, "config.json")
new = os.path.join(root, "new")
fd = os.open(file, os.O_RDONLY)
attempts = {
    "open for writing": lambda: os.open(file, os.O_WRONLY),
    "open for both": lambda: os.open(file, os.O_RDWR),
    "O_TRUNC": lambda: os.open(file, os.O_RDONLY | os.O_TRUNC),
    "O_CREAT": lambda: os.open(new, os.O_WRONLY | os.O_CREAT),
    "O_TMPFILE": lambda: os.open(root, os.O_WRONLY | os.O_TMPFILE),
    "truncate": lambda: os.truncate(file, 0),
    "chmod": lambda: os.chmod(file, 0o777),
    "chown": lambda: os.chown(file, 1, 1),
    "utime": lambda: os.utime(file),
    "unlink": lambda: os.unlink(file),
    "mkdir": lambda: os.mkdir(new),
    "rmdir": lambda: os.rmdir(os.path.join(root, "model")),
    "rename": lambda: os.rename(file, new),
    "symlink": lambda: os.symlink("x", new),
    "link": lambda: os.link(file, new),
    "mknod": lambda: os.mknod(new),
    "mkfifo": lambda: os.mkfifo(new),
    "setxattr": lambda: os.setxattr(file, "user.x", b"1"),
    "removexattr": lambda: os.removexattr(file, "user.refmount.digest"),
    "fchmod": lambda: os.fchmod(fd, 0o777),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except OSError as error:
        assert error.errno == errno.EROFS, (name, error)
    else:
        raise AssertionError(name + " was allowed")
# Neither of these needs a writable file system, but the descriptor does not allow them.
for name, attempt in {
    "write": lambda: os.write(fd, b"x"),
    "fallocate": lambda: os.posix_fallocate(fd, 0, 1),
    "ftruncate": lambda: os.ftruncate(fd, 0),
}.items():
    try:
        attempt()
    except OSError as error:
        assert error.errno in (errno.EBADF, errno.EINVAL, errno.EROFS), (name, error)
    else:
        raise AssertionError(name + " was allowed")
print("all refused")
