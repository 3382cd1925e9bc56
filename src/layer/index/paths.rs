//! Paths in an index: their order, and the check that they are paths.

use std::cmp::Ordering;

use crate::base::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX};

/// The order of two paths by their components: `/` counts as the lowest byte, and a path comes before what lies
/// below it. Only paths that are equal are equal, as long as neither holds NUL.
pub(super) fn order(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
    // Neighbours have most of their bytes in common.
    const STEP: usize = 16;
    let same = a
        .as_chunks::<STEP>()
        .0
        .iter()
        .zip(b.as_chunks::<STEP>().0)
        .position(|(a, b)| a != b)
        .unwrap_or(a.len().min(b.len()) / STEP)
        * STEP;
    match a[same..].iter().zip(&b[same..]).find(|(a, b)| a != b) {
        Some((a, b)) => rank(*a).cmp(&rank(*b)),
        None => a.len().cmp(&b.len()),
    }
}

/// Whether `names` is a run of plain names, with one slash before each and one at the end: neither empty nor `.` nor
/// `..`, and without NUL. Their lengths are [`fits`]' to check.
pub(super) fn are_plain(names: &[u8]) -> bool {
    if names.first() != Some(&b'/') || names.last() != Some(&b'/') {
        return false;
    }
    let from = |at: usize| names.get(at..).unwrap_or_default();
    // Without branches, so that it is done for many bytes at once.
    let flaws = names
        .iter()
        .zip(from(1))
        .zip(from(2))
        .zip(from(3))
        .fold(0, |flaws, (((a, b), c), d)| flaws | flaw(*a, *b, *c, *d));
    // Behind the end there is nothing that a flaw could be made of.
    let at = |at: usize| names.get(at).copied().unwrap_or(b'x');
    let last = (names.len().saturating_sub(3)..names.len())
        .fold(0, |flaws, i| flaws | flaw(at(i), at(i + 1), at(i + 2), at(i + 3)));
    flaws | last == 0
}

/// One when the first of four bytes in a row is NUL, or a slash before an empty name, `.` or `..`.
fn flaw(a: u8, b: u8, c: u8, d: u8) -> u8 {
    let is = |byte: u8, other: u8| u8::from(byte == other);
    let dots = is(b, b'.') & (is(c, b'/') | (is(c, b'.') & is(d, b'/')));
    is(a, 0) | (is(a, b'/') & (is(b, b'/') | dots))
}

/// Whether a path of plain names keeps within the limits on paths.
pub(super) fn fits(path: &[u8]) -> bool {
    path.len() <= NAME_BYTES_MAX
        || (path.len() <= PATH_BYTES_MAX
            && path.split(|byte| *byte == b'/').all(|name| name.len() <= NAME_BYTES_MAX))
}
