//! Raw deflate (RFC 1951) that tells where its blocks end, to the bit, and begins at any bit.
//!
//! This is all of `unsafe` that the decoders need, and the only place that may hold it: the crate behind it is
//! safe Rust inside, but what checkpoints need of it (the bits left over at a block's end, bits put in front, the
//! window taken out) it offers through zlib's own interface alone. Nothing here knows gzip.

#![expect(unsafe_code, reason = "zlib's interface passes buffers as pointers; see docs/decisions/0005")]

use std::ptr::NonNull;

use libz_rs_sys as z;

use crate::layer::restart::WINDOW_BYTES_MAX;

/// A raw deflate decoder.
pub(super) struct Inflate {
    /// On the heap and never moved while the library knows it, as zlib demands.
    stream: Box<z::z_stream>,
}

// SAFETY: the stream owns its state alone, on the heap; nothing in it belongs to a thread, and the pointers into
// callers' buffers are cleared before each call returns.
unsafe impl Send for Inflate {}

/// What a call came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inflated {
    pub(super) consumed: usize,
    pub(super) written: usize,
    pub(super) at: Place,
}

/// Where the decoder stands after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Somewhere: it wants input, or room for output.
    Within,
    /// Between two blocks. The last `unused_bits` bits of the input taken so far belong to the next one.
    BlockEnd { unused_bits: u64 },
    /// After the last block; bits up to the next whole byte were dropped.
    StreamEnd,
}

/// Why bytes are no deflate stream, in the library's words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Damaged(pub(super) &'static str);

impl Inflate {
    /// A decoder at the start of a stream.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(super) fn new() -> Result<Self, Damaged> {
        let mut stream = Box::<z::z_stream>::default();
        // Negative: neither zlib's nor gzip's header; the largest window that there is.
        const RAW_WINDOW_BITS: i32 = -15;
        let size = i32::try_from(size_of::<z::z_stream>()).unwrap_or_default();
        // SAFETY: the stream is a valid z_stream with its allocator set by `default`; version and size are those
        // of the library that it is compiled with.
        let code = unsafe { z::inflateInit2_(&raw mut *stream, RAW_WINDOW_BITS, z::zlibVersion(), size) };
        if code == z::Z_OK { Ok(Self { stream }) } else { Err(Damaged("no memory for a decoder")) }
    }

    /// Goes back to the start of a stream, without a window.
    pub(super) fn reset(&mut self) {
        // SAFETY: `new` initialised the stream.
        let code = unsafe { z::inflateReset(&raw mut *self.stream) };
        debug_assert_eq!(code, z::Z_OK);
    }

    /// Begins in the middle of a stream: right after `reset` or `new`, with the bytes before that place (at most
    /// [`WINDOW_BYTES_MAX`]) and the upper `bits` bits (at most 7) of the byte in which it lies.
    ///
    /// # Errors
    /// When the library refuses; it does not for what is allowed here.
    pub(super) fn begin_at(&mut self, window: &[u8], bits: u8, first_byte: u8) -> Result<(), Damaged> {
        let length = u32::try_from(window.len().min(WINDOW_BYTES_MAX)).unwrap_or_default();
        let value = i32::from(first_byte).checked_shr(u32::from(8 - bits.min(8))).unwrap_or_default();
        // SAFETY: `new` initialised the stream; `window` is readable for `length` bytes, which is at most its
        // length, and is only read during the call.
        let codes = unsafe {
            let stream = &raw mut *self.stream;
            (
                z::inflateSetDictionary(stream, window.as_ptr(), length),
                z::inflatePrime(stream, i32::from(bits), value),
            )
        };
        if codes == (z::Z_OK, z::Z_OK) { Ok(()) } else { Err(Damaged("the decoder refuses to begin here")) }
    }

    /// Decodes from `input` into `output`, at most to the end of the block if `stop_at_block`.
    ///
    /// # Errors
    /// When the input is no deflate stream, or reaches back before its window.
    pub(super) fn inflate(
        &mut self,
        input: &[u8],
        output: &mut [u8],
        stop_at_block: bool,
    ) -> Result<Inflated, Damaged> {
        let room_in = u32::try_from(input.len()).unwrap_or(u32::MAX);
        let room_out = u32::try_from(output.len()).unwrap_or(u32::MAX);
        let stream = &mut *self.stream;
        (stream.next_in, stream.avail_in) = (input.as_ptr(), room_in);
        (stream.next_out, stream.avail_out) = (output.as_mut_ptr(), room_out);
        let flush = if stop_at_block { z::Z_BLOCK } else { z::Z_NO_FLUSH };
        // SAFETY: `new` initialised the stream; `next_in` is readable for `avail_in` bytes and `next_out` writable
        // for `avail_out`, since neither is more than its slice's length, and both slices outlive the call.
        let code = unsafe { z::inflate(stream, flush) };
        let consumed = (room_in - stream.avail_in) as usize;
        let written = (room_out - stream.avail_out) as usize;
        let state = stream.data_type;
        stream.next_in = NonNull::dangling().as_ptr();
        stream.next_out = NonNull::dangling().as_ptr();
        let at = match code {
            z::Z_STREAM_END => Place::StreamEnd,
            // zlib.h, at inflate: 128 between blocks, 64 in or after the last one, the lowest bits the unused ones.
            z::Z_OK | z::Z_BUF_ERROR if state & (128 | 64) == 128 => {
                Place::BlockEnd { unused_bits: u64::from((state & 63).unsigned_abs()) }
            }
            z::Z_OK | z::Z_BUF_ERROR => Place::Within,
            _ => return Err(Damaged(self.message())),
        };
        Ok(Inflated { consumed, written, at })
    }

    /// The bytes before this place that the stream may still refer to, at most [`WINDOW_BYTES_MAX`].
    pub(super) fn window(&self) -> Vec<u8> {
        let mut window = vec![0; WINDOW_BYTES_MAX];
        let mut length = 0;
        // SAFETY: `new` initialised the stream; 32 KiB are always enough for its window (zlib.h, at
        // inflateGetDictionary), and `window` has as many.
        let code =
            unsafe { z::inflateGetDictionary(&raw const *self.stream, window.as_mut_ptr(), &raw mut length) };
        debug_assert_eq!(code, z::Z_OK);
        window.truncate(length as usize);
        window
    }

    fn message(&self) -> &'static str {
        if self.stream.msg.is_null() {
            return "not a deflate stream";
        }
        // SAFETY: the library's messages are constants that end in NUL.
        unsafe { std::ffi::CStr::from_ptr(self.stream.msg) }.to_str().unwrap_or("not a deflate stream")
    }
}

impl Drop for Inflate {
    fn drop(&mut self) {
        // SAFETY: `new` initialised the stream, and nothing uses it afterwards.
        let code = unsafe { z::inflateEnd(&raw mut *self.stream) };
        debug_assert_eq!(code, z::Z_OK);
    }
}

impl std::fmt::Debug for Inflate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflate").finish_non_exhaustive()
    }
}
