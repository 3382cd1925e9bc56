//! Archives changed at random: what we still accept, GNU tar reads in the same way.

use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::differential::{compare_with_gnu_files, compare_with_gnu_listing, readings};
use super::{read, show, splits};

/// Archives that are accepted and compared. Two processes run for each.
const ACCEPTED: usize = 120;
/// Of what is changed at random, most is refused.
const ATTEMPTS: usize = 20_000;

#[test]
fn an_accepted_archive_is_another_one_to_gnu_tar() {
    let seed = super::seed();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let original = splits::sample();
    let (unchanged, _) = read(&original, usize::MAX).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut accepted = Vec::new();
    for attempt in 0..ATTEMPTS {
        // The unchanged one comes first.
        let bytes = if attempt == 0 { original.clone() } else { changed(&original, &mut random) };
        let Ok((items, _)) = read(&bytes, usize::MAX) else { continue };
        if attempt > 0 && items == unchanged {
            continue;
        }
        let path = directory.path().join(format!("{attempt:05}.tar"));
        let file = std::fs::File::create(&path).unwrap();
        std::io::Write::write_all(&mut &file, &bytes).unwrap();
        accepted.push((path, bytes, items));
        if accepted.len() == ACCEPTED {
            break;
        }
    }
    assert_eq!(accepted.len(), ACCEPTED, "too little is accepted for a comparison");
    let scratch = tempfile::tempdir().unwrap();
    let paths: Vec<_> = accepted.iter().map(|(path, ..)| path.clone()).collect();
    for (reading, (_, bytes, items)) in readings(scratch.path(), &paths).iter().zip(&accepted) {
        let label = differences(&original, bytes);
        let shown: Vec<_> = items.iter().map(|item| show(bytes, item)).collect();
        compare_with_gnu_listing(&label, &shown, &reading["gnu"]);
        compare_with_gnu_files(&label, &shown, &reading["gnu"]["files"]);
    }
}

/// What was changed: block, offset in it, and the byte before and after.
fn differences(original: &[u8], bytes: &[u8]) -> String {
    let pairs = original.iter().zip(bytes).enumerate().filter(|(at, (old, new))| {
        // The checksum follows from the rest.
        old != new && !(148..156).contains(&(at % 512))
    });
    let shown = pairs.map(|(at, (old, new))| {
        format!("block {} byte {}: {:?} -> {:?}", at / 512, at % 512, char::from(*old), char::from(*new))
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn changed(original: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    const TELLING: &[u8] = b"\0\0 0123456789./=\n,-+SLKxg\x80\xff";
    let mut bytes = original.to_vec();
    for _ in 0..random.random_range(1..4) {
        // Not the end, which is zeros.
        let block = random.random_range(0..bytes.len() / 512 - 2);
        let at = block * 512 + random.random_range(0..512);
        // Fields are full of zeros where a change says little.
        if bytes[at] == 0 && random.random_bool(0.7) {
            continue;
        }
        bytes[at] = *TELLING.choose(random).unwrap();
        if random.random_bool(0.8) {
            splits::seal_if_header(&mut bytes, original, block);
        }
    }
    bytes
}
