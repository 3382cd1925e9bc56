//! How fast a compressed layer is decoded while its restart points are noted, and how large they are.
//!
//! `cargo run --release --example decode_rate -- FILE.gz [WITHOUT-POINTS]`

use std::io::Read as _;

use refmount::base::{Error, ErrorKind, Result, clock};
use refmount::layer::decoder::Decoder;
use refmount::layer::encoding::{ENCODING_BYTES, Encoding};
use refmount::layer::restart::{RestartPoint, RestartTableBuilder};

fn main() -> Result<()> {
    let path = std::env::args().nth(1).ok_or_else(|| Error::new(ErrorKind::Usage, "which file?"))?;
    let with_points = std::env::args().nth(2).is_none();
    let mut file = std::fs::File::open(&path)?;
    let mut input = vec![0; 1 << 20];
    let mut output = vec![0; 1 << 20];
    let start = clock::now();
    let mut have = file.read(&mut input)?;
    let Encoding::Compressed(codec) = Encoding::of(&input[..have.min(ENCODING_BYTES)]) else {
        return Err(Error::new(ErrorKind::Usage, format!("{path} is not compressed")));
    };
    let mut decoder = match with_points {
        true => Decoder::new(codec)?,
        false => Decoder::resume(codec, &RestartPoint::START)?,
    };
    let mut builder = RestartTableBuilder::new(codec);
    while have > 0 {
        let mut rest = &input[..have];
        loop {
            let progress = decoder.decode(rest, &mut output)?;
            rest = &rest[progress.consumed..];
            decoder.take_points().iter().for_each(|point| builder.push(point));
            if progress.written < output.len() {
                break;
            }
        }
        have = file.read(&mut input)?;
    }
    decoder.finish()?;
    let seconds = start.elapsed().as_secs_f64();
    let end = decoder.position();
    let rate = end.stream_offset as f64 / 1e6 / seconds;
    println!("{} bytes of {} in {seconds:.3} s, {rate:.0} MB/s", end.stream_offset, end.compressed_offset);
    if with_points {
        let table = builder.finish(end.compressed_offset, end.stream_offset)?;
        let share = table.bytes().len() as f64 / end.compressed_offset as f64 * 100.0;
        println!("{} points, {} bytes, {share:.2} % of the layer", table.count(), table.bytes().len());
    }
    Ok(())
}
