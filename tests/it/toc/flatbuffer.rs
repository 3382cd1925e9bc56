//! Writing flatbuffers and zTOCs byte for byte, from what is to stand in them.

use refmount::layer::restart::{RestartPoint, RestartState};

use super::hostile::sha256;

/// What a field of a table is.
#[derive(Clone)]
pub(super) enum Field {
    /// Not there, so that it has its default.
    None,
    I64(i64),
    I32(i32),
    U32(u32),
    U8(u8),
    /// A string, or a vector of bytes.
    Bytes(Vec<u8>),
    Table(Vec<Field>),
    /// A vector of strings or tables.
    List(Vec<Field>),
}

pub(super) fn text(text: &str) -> Field {
    Field::Bytes(text.as_bytes().to_vec())
}

/// The document whose root is a table with these fields.
pub(super) fn document(root: &[Field]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    let at = table(&mut bytes, root);
    bytes[..4].copy_from_slice(&(at as u32).to_le_bytes());
    bytes
}

fn table(bytes: &mut Vec<u8>, fields: &[Field]) -> usize {
    let vtable = bytes.len();
    let (mut offsets, mut end) = (Vec::new(), 4_u16);
    for field in fields {
        let size = match field {
            Field::None => 0,
            Field::U8(_) => 1,
            Field::I64(_) => 8,
            _ => 4,
        };
        offsets.push(if size == 0 { 0 } else { end });
        end += size;
    }
    for number in [4 + 2 * fields.len() as u16, end].into_iter().chain(offsets.iter().copied()) {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    let at = bytes.len();
    bytes.extend_from_slice(&((at - vtable) as i32).to_le_bytes());
    bytes.resize(at + usize::from(end), 0);
    for (field, offset) in fields.iter().zip(offsets) {
        let place = at + usize::from(offset);
        let mut put = |number: &[u8]| bytes[place..place + number.len()].copy_from_slice(number);
        match field {
            Field::None => {}
            Field::I64(number) => put(&number.to_le_bytes()),
            Field::I32(number) => put(&number.to_le_bytes()),
            Field::U32(number) => put(&number.to_le_bytes()),
            Field::U8(number) => put(&[*number]),
            _ => follow(bytes, place, field),
        }
    }
    at
}

/// Writes what `field` leads to, and the offset to it at `place`.
fn follow(bytes: &mut Vec<u8>, place: usize, field: &Field) {
    let mut at = bytes.len();
    match field {
        Field::Bytes(content) => {
            bytes.extend_from_slice(&(content.len() as u32).to_le_bytes());
            bytes.extend_from_slice(content);
            bytes.push(0);
        }
        Field::List(items) => {
            bytes.extend_from_slice(&(items.len() as u32).to_le_bytes());
            let first = bytes.len();
            bytes.resize(first + 4 * items.len(), 0);
            for (number, item) in items.iter().enumerate() {
                follow(bytes, first + 4 * number, item);
            }
        }
        Field::Table(fields) => at = table(bytes, fields),
        _ => panic!("nothing leads to a number"),
    }
    bytes[place..place + 4].copy_from_slice(&((at - place) as u32).to_le_bytes());
}

/// The checkpoints of these points in the form of zran, and the compressed ranges between them. The first point is that
/// before the gzip header, which has `header_bytes`; the first version leaves it out.
pub(super) fn checkpoints(
    points: &[RestartPoint],
    header_bytes: u64,
    blob: &[u8],
    is_first_version: bool,
) -> (Vec<u8>, Vec<Field>) {
    let mut bytes = (points.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&(1_i64 << 18).to_le_bytes());
    let mut places = Vec::new();
    for point in points {
        let (whole_byte, bits, known) = match &point.state {
            RestartState::FrameStart => (header_bytes, 0, Vec::new()),
            RestartState::Block(state) => {
                let bits = (8 - state.used_bits) % 8;
                (point.compressed_offset + u64::from(bits > 0), bits, state.window.unpack().unwrap())
            }
        };
        places.push((whole_byte - u64::from(bits > 0), whole_byte));
        if is_first_version && point.state == RestartState::FrameStart {
            continue;
        }
        bytes.extend_from_slice(&whole_byte.to_le_bytes());
        bytes.extend_from_slice(&point.stream_offset.to_le_bytes());
        bytes.push(bits);
        bytes.resize(bytes.len() + (32 << 10) - known.len(), 0xee);
        bytes.extend_from_slice(&known);
    }
    let place = |offset| usize::try_from(offset).unwrap();
    let digests = places
        .iter()
        .enumerate()
        .map(|(at, (start, _))| {
            let end = places.get(at + 1).map_or(blob.len(), |(_, whole_byte)| place(*whole_byte));
            text(&sha256(&blob[place(*start)..end]))
        })
        .collect();
    (bytes, digests)
}
