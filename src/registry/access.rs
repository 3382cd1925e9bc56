//! [`Access`]: who a source asks as, and how it gets there, told so that it can be compared and not be found out.

use std::fmt;

/// A BLAKE3 hash under a key that never leaves the machine: without the key, nobody can try passwords against it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// The key of fingerprints.
#[derive(Clone, Copy)]
pub struct AccessKey(pub [u8; 32]);

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessKey")
    }
}

/// See the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The hosts that would be asked, what they are called there, and by what they are known to be the right ones. Two
    /// sources that go different ways may be told different things by the same name.
    pub way: Fingerprint,
    /// What would be sent to them as proof, by what the files of credentials say now.
    pub credentials: Fingerprint,
    /// Whether any proof was sent so far; if not, anyone who goes the same way is answered the same.
    pub was_proven: bool,
}

/// A fingerprint in the making.
pub(super) struct Fingerprinter(blake3::Hasher);

impl Fingerprinter {
    /// One of `what`, under `key`.
    pub(super) fn new(key: &AccessKey, what: &str) -> Self {
        let mut new = Self(blake3::Hasher::new_keyed(&key.0));
        new.add(what);
        new
    }

    /// Adds a text, so that its end is not to be mistaken.
    pub(super) fn add(&mut self, text: impl AsRef<[u8]>) -> &mut Self {
        let text = text.as_ref();
        self.0.update(&(text.len() as u64).to_le_bytes());
        self.0.update(text);
        self
    }

    pub(super) fn finish(&self) -> Fingerprint {
        Fingerprint(*self.0.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_parts_give_the_same_and_others_another() {
        let of = |key: u8, parts: &[&str]| {
            let mut of = Fingerprinter::new(&AccessKey([key; 32]), "test");
            for part in parts {
                of.add(part);
            }
            of.finish()
        };
        assert_eq!(of(1, &["user", "word"]), of(1, &["user", "word"]));
        for other in [of(2, &["user", "word"]), of(1, &["use", "rword"]), of(1, &["user", "word", ""])] {
            assert_ne!(of(1, &["user", "word"]), other);
        }
        assert!(!format!("{:?}", AccessKey([7; 32])).contains('7'));
    }
}
