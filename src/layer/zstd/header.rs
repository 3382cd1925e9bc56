//! The header of a zstd frame (RFC 8878, 3.1.1.1): only what decides whether the frame is decoded at all.

/// What a frame's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Bytes that a decoder must keep of what it made.
    pub(super) window_bytes: u64,
    /// Bytes that come out of the frame, where it says so.
    pub(super) content_bytes: Option<u64>,
    /// The dictionary that it needs; 0 for none.
    pub(super) dictionary: u32,
    /// Whether a bit is set that stands for what this reader does not know.
    pub(super) reserved: bool,
}

impl FrameHeader {
    /// Reads the header at the start of `bytes`, magic included; none when more bytes are needed.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (descriptor, rest) = bytes.get(4..)?.split_first()?;
        let single_segment = descriptor & 0x20 != 0;
        let (window, rest) = rest.split_at_checked(usize::from(!single_segment))?;
        let (dictionary, rest) = rest.split_at_checked([0, 1, 2, 4][usize::from(descriptor & 3)])?;
        let field_bytes = match descriptor >> 6 {
            0 => usize::from(single_segment),
            code => 1 << code,
        };
        let (content, _) = rest.split_at_checked(field_bytes)?;
        let content = little_endian(content) + if field_bytes == 2 { 256 } else { 0 };
        let window_bytes = window.first().map_or(content, |window| {
            let base = 1_u64 << (10 + (window >> 3));
            base + base / 8 * u64::from(window & 7)
        });
        // At most four bytes.
        let dictionary = little_endian(dictionary) as u32;
        let content_bytes = (field_bytes > 0).then_some(content);
        Some(Self { window_bytes, content_bytes, dictionary, reserved: descriptor & 0x08 != 0 })
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form_of_a_header_and_waits_for_its_last_byte() {
        let magic = [0x28, 0xb5, 0x2f, 0xfd];
        for (header, window_bytes, content_bytes, dictionary) in [
            (&[0x00, 0x00][..], 1 << 10, None, 0),
            (&[0x00, 0x8f], (1 << 27) + (1 << 27) / 8 * 7, None, 0),
            (&[0x20, 7], 7, Some(7), 0),
            (&[0x60, 1, 2], 0x201 + 256, Some(0x201 + 256), 0),
            (&[0xa0, 1, 2, 3, 4], 0x0403_0201, Some(0x0403_0201), 0),
            (&[0xe0, 1, 0, 0, 0, 0, 0, 0, 0x80], 1 << 63 | 1, Some(1 << 63 | 1), 0),
            (&[0x01, 0x50, 9], 1 << 20, None, 9),
            (&[0x22, 9, 1, 4], 4, Some(4), 0x109),
            (&[0x43, 0x50, 9, 0, 0, 1, 7, 7], 1 << 20, Some(0x707 + 256), 0x0100_0009),
        ] {
            let bytes = [&magic, header].concat();
            let expected = FrameHeader { window_bytes, content_bytes, dictionary, reserved: false };
            assert_eq!(FrameHeader::read(&bytes), Some(expected), "{header:x?}");
            assert_eq!(FrameHeader::read(&bytes[..bytes.len() - 1]), None, "{header:x?}");
        }
        assert!(FrameHeader::read(&[0x28, 0xb5, 0x2f, 0xfd, 0x28, 0]).unwrap().reserved);
    }
}
