//! Writes bytes like those of trained weights in bf16, always the same, which gzip makes about a fifth smaller.
//! Usage: `make_weights MIB [SEED]`; they go to standard output.
//!
//! Weights are spread like a bell around zero: their signs and mantissas look random, and each step of the exponent
//! is about half as frequent as the one above it.

use std::error::Error;
use std::io::{BufWriter, Write as _};

/// The exponent of the largest values: weights of about 0.03.
const EXPONENT_MAX: u64 = 122;

/// Mantissa bits of bf16.
const MANTISSA_BITS: u32 = 7;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mib: u64 = arguments.next().ok_or("usage: make_weights MIB [SEED]")?.parse()?;
    let seed: u64 = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let mut out = BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
    // Zero would stay zero.
    let mut state = seed.max(1);
    for _ in 0..mib * 1024 * 1024 / 4 {
        state = next(state);
        out.write_all(&weight(state as u32).to_le_bytes())?;
        out.write_all(&weight((state >> 32) as u32).to_le_bytes())?;
    }
    out.flush()?;
    Ok(())
}

/// The weight that these random bits make.
fn weight(random: u32) -> u16 {
    let (sign, mantissa) = (random >> 31, random & ((1 << MANTISSA_BITS) - 1));
    // How many zeros come before the first one is spread as exponents are.
    let exponent = EXPONENT_MAX as u32 - (random >> MANTISSA_BITS | 1 << 20).trailing_zeros();
    (sign << 15 | exponent << MANTISSA_BITS | mantissa) as u16
}

/// Random bits (xorshift64; Marsaglia, 2003).
fn next(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ (state << 17)
}
