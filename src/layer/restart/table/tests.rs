use proptest::prelude::*;

use super::*;

fn block(compressed_offset: u64, stream_offset: u64, window: &[u8]) -> RestartPoint {
    let member = Some(MemberSum { crc: 6, bytes: 7 }).filter(|_| window.len() != 9);
    let state = BlockState { used_bits: 5, member, window: Window::pack(window).unwrap() };
    RestartPoint { compressed_offset, stream_offset, state: RestartState::Block(state) }
}

fn frame(compressed_offset: u64, stream_offset: u64) -> RestartPoint {
    RestartPoint { compressed_offset, stream_offset, state: RestartState::FrameStart }
}

fn table(points: &[RestartPoint]) -> Result<RestartTable> {
    let mut builder = RestartTableBuilder::new(Codec::Gzip);
    points.iter().for_each(|point| builder.push(point));
    builder.finish(1000, 9000)
}

fn sample() -> RestartTable {
    table(&[frame(0, 0), block(100, 1000, b"window"), frame(300, 3000), block(500, 5000, &[7; 32 << 10])])
        .unwrap()
}

#[test]
fn the_nearest_point_and_the_bytes_between_are_found() {
    let table = sample();
    for (stream_offset, nearest) in
        [(0, 0), (999, 0), (1000, 1000), (2999, 1000), (3000, 3000), (8999, 5000), (u64::MAX, 5000)]
    {
        assert_eq!(table.nearest(stream_offset).stream_offset, nearest, "{stream_offset}");
    }
    for (stream, compressed) in [
        (0..1, 0..101),
        (0..1000, 0..101),
        (0..1001, 0..300),
        (1000..3000, 100..300),
        (2999..3001, 100..501),
        (5000..9000, 500..1000),
        (8000..u64::MAX, 500..1000),
    ] {
        assert_eq!(table.compressed_range(&stream), compressed, "{stream:?}");
    }
    let windows: Vec<_> = table
        .points()
        .filter_map(|point| match point.state {
            RestartState::Block(state) => Some(state.window.unpack().unwrap()),
            RestartState::FrameStart => None,
        })
        .collect();
    assert_eq!(windows, [b"window".to_vec(), vec![7; 32 << 10]]);
    assert_eq!((table.count(), table.compressed_bytes(), table.stream_bytes()), (4, 1000, 9000));
    assert_eq!(RestartTable::decode(table.bytes().clone()).unwrap(), table);
}

#[test]
fn a_member_whose_sums_are_unknown_stays_so() {
    let table = table(&[frame(0, 0), block(100, 1000, b"unchecked"), block(500, 5000, b"window")]).unwrap();
    let members: Vec<_> = RestartTable::decode(table.bytes().clone())
        .unwrap()
        .points()
        .map(|point| match point.state {
            RestartState::Block(state) => state.member,
            RestartState::FrameStart => None,
        })
        .collect();
    assert_eq!(members, [None, None, Some(MemberSum { crc: 6, bytes: 7 })]);
}

#[test]
fn points_without_order_or_beyond_the_layer_are_refused() {
    for points in [
        &[][..],
        &[frame(0, 1)],
        &[frame(1, 0)],
        &[frame(0, 0), frame(0, 5)],
        &[frame(0, 0), frame(5, 0)],
        &[frame(0, 0), frame(5, 50), frame(4, 60)],
        &[frame(0, 0), frame(1000, 50)],
        &[frame(0, 0), frame(50, 9001)],
    ] {
        assert_eq!(table(points).unwrap_err().kind(), ErrorKind::Corrupt, "{points:?}");
    }
    let mut zstd = RestartTableBuilder::new(Codec::Zstd);
    zstd.push(&block(0, 0, b""));
    assert!(zstd.finish(10, 10).is_err(), "a zstd layer has no points between blocks");
}

#[test]
fn a_table_that_is_cut_short_or_says_something_else_is_refused() {
    let bytes = sample().bytes().to_vec();
    for cut in 0..bytes.len() {
        assert!(RestartTable::decode(Bytes::copy_from_slice(&bytes[..cut])).is_err(), "{cut}");
    }
    assert!(RestartTable::decode([&bytes[..], &[0]].concat().into()).is_err());
    let record = |at: usize, field: usize| HEADER_BYTES + at * RECORD_BYTES + field;
    // Magic, version, codec, the counts; then, of records: offsets, windows, kind, bits, what must be zero.
    let header = [0, 7, 8, 12, 32, 40];
    let records =
        [(0, 0), (0, 8), (0, 16), (0, 24), (0, 36), (0, 37), (1, 7), (1, 15), (1, 23), (1, 27), (2, 28)];
    let more = [(1, 36), (1, 38), (1, 39), (3, 37)];
    for at in header.into_iter().chain(records.into_iter().chain(more).map(|(at, field)| record(at, field))) {
        let mut wrong = bytes.clone();
        wrong[at] ^= 0x08;
        assert!(RestartTable::decode(wrong.into()).is_err(), "byte {at}");
    }
}

#[test]
fn windows_that_no_point_has_are_accepted() {
    let mut bytes = table(&[frame(0, 0), frame(300, 3000)]).unwrap().bytes().to_vec();
    bytes[40..48].copy_from_slice(&3_u64.to_le_bytes());
    bytes.extend_from_slice(b"any");
    let error = RestartTable::decode(bytes.into()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    // A point between blocks without a window.
    let points = [frame(0, 0), block(100, 1000, b"window")];
    let mut bytes = table(&points).unwrap().bytes()[..HEADER_BYTES + 2 * RECORD_BYTES].to_vec();
    bytes[40..48].fill(0);
    assert_eq!(RestartTable::decode(bytes.into()).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_damaged_window_is_an_error_when_it_is_used() {
    let mut bytes = sample().bytes().to_vec();
    let window = bytes.len() - 10;
    bytes[window..].fill(0xff);
    let table = RestartTable::decode(bytes.into()).unwrap();
    let RestartState::Block(state) = table.nearest(5000).state else { panic!("not a block") };
    assert_eq!(state.window.unpack().unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(Window::pack(&[0; WINDOW_BYTES_MAX + 1]).is_err());
}

proptest! {
    #[test]
    fn mutated_tables_never_lead_out_of_the_layer(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        stream in any::<(u64, u64)>(),
    ) {
        let mut bytes = sample().bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(table) = RestartTable::decode(bytes.into()) {
            for point in table.points() {
                prop_assert!(point.compressed_offset < table.compressed_bytes());
                if let RestartState::Block(state) = point.state {
                    state.window.unpack().ok();
                }
            }
            let range = table.compressed_range(&(stream.0.min(stream.1)..stream.1));
            prop_assert!(range.start <= range.end && range.end <= table.compressed_bytes());
        }
    }
}
