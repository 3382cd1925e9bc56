//! Archives made block by block, so that they can be wrong in one place.

/// The header of a file, POSIX, which fields can be written into.
#[derive(Clone, Debug)]
pub(crate) struct Block(pub(crate) Vec<u8>);

/// Where the fields of a header lie.
pub(crate) const NAME: usize = 0;
pub(crate) const MODE: usize = 100;
pub(crate) const UID: usize = 108;
pub(crate) const SIZE: usize = 124;
pub(crate) const MTIME: usize = 136;
pub(crate) const TYPE: usize = 156;
pub(crate) const LINK: usize = 157;
pub(crate) const MAGIC: usize = 257;
pub(crate) const MAJOR: usize = 329;
pub(crate) const PREFIX: usize = 345;
pub(crate) const SPARSE: usize = 386;

impl Block {
    pub(crate) fn new(name: &str, kind: u8, size: u64) -> Self {
        let block = Self(vec![0; 512]).put(NAME, name.as_bytes()).put(MODE, b"0000644").put(UID, b"0000001");
        let block = block.put(116, b"0000002").put(SIZE, format!("{size:011o}").as_bytes());
        block.put(MTIME, b"00000000007").put(TYPE, &[kind]).put(MAGIC, b"ustar\x0000").sealed()
    }

    pub(crate) fn gnu(self) -> Self {
        self.put(MAGIC, b"ustar  \0")
    }

    /// Writes `bytes` at `offset`, and the checksum.
    pub(crate) fn put(mut self, offset: usize, bytes: &[u8]) -> Self {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.sealed()
    }

    fn sealed(mut self) -> Self {
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        self.0[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self
    }
}

/// A header with its body, filled up to whole blocks.
pub(crate) fn entry(header: Block, body: &[u8]) -> Vec<u8> {
    let mut bytes = header.0;
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A file named `name`.
pub(crate) fn file(name: &str, body: &[u8]) -> Vec<u8> {
    entry(Block::new(name, b'0', body.len() as u64), body)
}

/// A PAX header of type `kind` with these records.
pub(crate) fn pax(kind: u8, records: &[(&str, &str)]) -> Vec<u8> {
    let body: String = records.iter().map(|(key, value)| record(key, value)).collect();
    entry(Block::new("pax", kind, body.len() as u64), body.as_bytes())
}

/// One record of a PAX header.
pub(crate) fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let length = (rest..).find(|length| rest + length.to_string().len() == *length).unwrap();
    format!("{length} {key}={value}\n")
}

/// The archive of these parts, with its end.
pub(crate) fn archive(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = parts.concat();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}
