//! Bytes that come in pieces and are wanted as one.

use bytes::Bytes;

/// Pieces, put together in their order. One alone stays where it is; it is copied when a second one comes.
#[derive(Clone, Debug, Default)]
pub struct Joined {
    only: Bytes,
    several: Vec<u8>,
    capacity: usize,
}

impl Joined {
    /// Nothing yet, of what will be `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { capacity, ..Self::default() }
    }

    /// Appends `piece`.
    pub fn push(&mut self, piece: Bytes) {
        if self.only.is_empty() && self.several.is_empty() {
            self.only = piece;
        } else {
            self.copied().extend_from_slice(&piece);
        }
    }

    /// Appends `count` zeros.
    pub fn push_zeros(&mut self, count: usize) {
        let several = self.copied();
        several.resize(several.len() + count, 0);
    }

    fn copied(&mut self) -> &mut Vec<u8> {
        if self.several.is_empty() {
            self.several.reserve(self.capacity.max(self.only.len()));
            self.several.extend_from_slice(&std::mem::take(&mut self.only));
        }
        &mut self.several
    }
}

impl From<Joined> for Bytes {
    fn from(joined: Joined) -> Self {
        if joined.several.is_empty() { joined.only } else { joined.several.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_piece_is_not_copied_and_several_are_joined() {
        let piece = Bytes::from(vec![1, 2, 3]);
        let mut joined = Joined::with_capacity(8);
        joined.push(Bytes::new());
        joined.push(piece.clone());
        assert_eq!(Bytes::from(joined.clone()).as_ptr(), piece.as_ptr());
        joined.push_zeros(2);
        joined.push(piece);
        assert_eq!(Bytes::from(joined)[..], [1, 2, 3, 0, 0, 1, 2, 3]);
        let mut zeros = Joined::default();
        zeros.push_zeros(1);
        zeros.push(Bytes::from_static(&[7]));
        assert_eq!(Bytes::from(zeros)[..], [0, 7]);
        assert!(Bytes::from(Joined::default()).is_empty());
    }
}
