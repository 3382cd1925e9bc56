"""Writes the checkpoints of a gzip file as a zTOC holds them, every so many bytes: zran.py BYTES FILE.

zlib is driven through ctypes, since Python's own module does not stop between blocks.
"""

import ctypes
import struct
import sys

WINDOW = 32768
Z_BLOCK = 5
Z_STREAM_END = 1


class Stream(ctypes.Structure):
    _fields_ = [
        ("next_in", ctypes.c_void_p),
        ("avail_in", ctypes.c_uint),
        ("total_in", ctypes.c_ulong),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_uint),
        ("total_out", ctypes.c_ulong),
        ("msg", ctypes.c_char_p),
        ("state", ctypes.c_void_p),
        ("zalloc", ctypes.c_void_p),
        ("zfree", ctypes.c_void_p),
        ("opaque", ctypes.c_void_p),
        ("data_type", ctypes.c_int),
        ("adler", ctypes.c_ulong),
        ("reserved", ctypes.c_ulong),
    ]


spacing = int(sys.argv[1])
with open(sys.argv[2], "rb") as file:
    data = file.read()
zlib = ctypes.CDLL("libz.so.1")
zlib.zlibVersion.restype = ctypes.c_char_p
stream = Stream()
# 47: a window of 32 KiB, zlib or gzip.
assert zlib.inflateInit2_(ctypes.byref(stream), 47, zlib.zlibVersion(), ctypes.sizeof(stream)) == 0
source = ctypes.create_string_buffer(data, len(data))
target = ctypes.create_string_buffer(1 << 20)
stream.next_in, stream.avail_in = ctypes.addressof(source), len(data)
window, points, last = b"", [], 0
while True:
    stream.next_out, stream.avail_out = ctypes.addressof(target), len(target)
    result = zlib.inflate(ctypes.byref(stream), Z_BLOCK)
    assert result in (0, Z_STREAM_END), (result, stream.msg)
    window = (window + target.raw[: len(target) - stream.avail_out])[-WINDOW:]
    if result == Z_STREAM_END:
        break
    at_block = stream.data_type & 128 and not stream.data_type & 64
    if at_block and (stream.total_out == 0 or stream.total_out - last > spacing):
        points.append((stream.total_in, stream.total_out, stream.data_type & 7, window))
        last = stream.total_out
out = struct.pack("<iq", len(points), spacing)
for total_in, total_out, bits, before in points:
    out += struct.pack("<qqB", total_in, total_out, bits) + before.rjust(WINDOW, b"\0")
sys.stdout.buffer.write(out)
