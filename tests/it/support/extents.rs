//! What a layer's index says of a file's content, taken out of the layer's stream.

use refmount::layer::Extents;

/// The `size` bytes of a file whose `extents` lie in `stream`, holes and all.
pub(crate) fn content(stream: &[u8], size: u64, extents: &Extents) -> Vec<u8> {
    let place = |offset: u64, length: u64| {
        &stream[usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap()]
    };
    match extents {
        Extents::Contiguous { stream_offset } => place(*stream_offset, size).to_vec(),
        Extents::Sparse(extents) => {
            let mut bytes = vec![0; usize::try_from(size).unwrap()];
            for extent in extents.iter() {
                let start = usize::try_from(extent.file_offset).unwrap();
                let piece = place(extent.stream_offset, extent.length);
                bytes[start..start + piece.len()].copy_from_slice(piece);
            }
            bytes
        }
    }
}
