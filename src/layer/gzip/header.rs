//! The header of a gzip member (RFC 1952, 2.3), fed byte by byte, because any split of the input must do.
//!
//! Nothing in it is kept: names, times and comments mean nothing to a layer. So a header of any length takes no
//! memory.

/// Flags of a header.
const HEADER_CRC: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
/// Bits that a reader must refuse, since they may stand for fields that it does not know (RFC 1952, 2.3.1.2).
const RESERVED: u8 = !(1 | HEADER_CRC | EXTRA | NAME | COMMENT);

/// Deflate, the only method there is.
const DEFLATE: u8 = 8;

/// A header that is being read.
#[derive(Clone, Debug, Default)]
pub(super) struct Header {
    field: Field,
    /// Bytes of the field that came.
    have: u32,
    flags: u8,
    /// Of everything before the header's own checksum.
    crc: u32,
    /// The number that is being read: an extra field's length, or the checksum.
    number: u16,
}

/// The fields in the order in which they follow each other.
const ORDER: [Field; 7] =
    [Field::Fixed, Field::ExtraLength, Field::Extra, Field::Name, Field::Comment, Field::Crc, Field::Done];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
enum Field {
    /// Magic, method, flags, time, extra flags, system: ten bytes.
    #[default]
    Fixed,
    ExtraLength,
    Extra,
    Name,
    Comment,
    Crc,
    Done,
}

impl Header {
    /// Whether no byte of it came.
    pub(super) fn is_untouched(&self) -> bool {
        self.field == Field::Fixed && self.have == 0
    }

    /// Takes the next byte. True once the header is complete.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn push(&mut self, byte: u8) -> Result<bool, &'static str> {
        if self.field != Field::Crc {
            self.crc = zlib_rs::crc32::crc32(self.crc, &[byte]);
        }
        let at = self.have;
        self.have += 1;
        let complete = match self.field {
            Field::Fixed => self.fixed(at, byte)?,
            Field::ExtraLength | Field::Crc => {
                self.number |= u16::from(byte) << (8 * at);
                at == 1
            }
            Field::Extra => self.have == u32::from(self.number),
            Field::Name | Field::Comment => {
                // Texts have no length that matters; the count must not overflow.
                self.have = 0;
                byte == 0
            }
            Field::Done => return Err("bytes after the end of a gzip header"),
        };
        if complete {
            self.next()?;
        }
        Ok(self.field == Field::Done)
    }

    fn fixed(&mut self, at: u32, byte: u8) -> Result<bool, &'static str> {
        match (at, byte) {
            (0, 0x1f) | (1, 0x8b) | (2, DEFLATE) => {}
            (0 | 1, _) => return Err("no gzip magic"),
            (2, _) => return Err("a gzip member with another method than deflate"),
            (3, flags) if flags & RESERVED != 0 => return Err("a gzip header with reserved flags"),
            (3, flags) => self.flags = flags,
            _ => {}
        }
        Ok(at == 9)
    }

    /// Goes on to the next field that the header has.
    fn next(&mut self) -> Result<(), &'static str> {
        if self.field == Field::Crc && u32::from(self.number) != self.crc & 0xffff {
            return Err("a gzip header whose checksum does not match");
        }
        let has = |field: &Field| match field {
            Field::ExtraLength => self.flags & EXTRA != 0,
            // An empty one is complete before its first byte.
            Field::Extra => self.flags & EXTRA != 0 && self.number > 0,
            Field::Name => self.flags & NAME != 0,
            Field::Comment => self.flags & COMMENT != 0,
            Field::Crc => self.flags & HEADER_CRC != 0,
            Field::Fixed | Field::Done => true,
        };
        self.field = ORDER.into_iter().find(|field| *field > self.field && has(field)).unwrap_or(Field::Done);
        self.have = 0;
        if self.field != Field::Extra {
            self.number = 0;
        }
        Ok(())
    }
}
