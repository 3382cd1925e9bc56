//! Where an input is split into pieces: anywhere, and always there for the same input.

/// Numbers that follow from the bytes of an input, so that the input itself stays a plain file of its format.
#[derive(Debug)]
pub(crate) struct Splits {
    state: u64,
}

impl Splits {
    /// Those of `data`.
    pub(crate) fn of(data: &[u8]) -> Self {
        // FNV-1a.
        let hash = data.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        // The state of an xorshift is never zero.
        Self { state: hash | 1 }
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 16) % bound
    }

    /// The length of the next piece: none, single bytes, about a tar block, or many at once.
    pub(crate) fn length(&mut self) -> usize {
        let length = match self.below(8) {
            0 => self.below(2),
            1 | 2 => 1 + self.below(3),
            3 | 4 => 1 + self.below(100),
            5 => 510 + self.below(5),
            _ => 1 + self.below(5000),
        };
        length as usize
    }
}
