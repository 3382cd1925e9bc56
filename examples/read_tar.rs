//! Measures the tar reader: `read_tar [ENTRIES]` reads an archive of so many files that is made on the way, keeps all
//! entries, and prints the rate and the memory at its highest.

#![expect(clippy::unwrap_used, reason = "a measurement ends at the first failure")]

use refmount::base::clock;
use refmount::layer::tar::TarReader;

fn main() {
    let entries: u64 = std::env::args().nth(1).map_or(1_000_000, |entries| entries.parse().unwrap());
    let mut reader = TarReader::new();
    let mut kept = Vec::new();
    let start = clock::now();
    for index in 0..entries {
        let path = format!("usr/lib/python3/dist-packages/package-{}/module-{index}.py", index / 100);
        let mut bytes = Vec::with_capacity(2048);
        // As many image builders write it: a PAX header for the time.
        let record = format!("30 mtime=17000{:05}.123456789\n", index % 100_000);
        assert_eq!(record.len(), 30);
        header(&mut bytes, &format!("PaxHeaders.0/{index}"), b'x', record.as_bytes());
        header(&mut bytes, &path, b'0', path.as_bytes());
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let fed = reader.feed(rest).unwrap();
            rest = &rest[fed.taken..];
            kept.extend(fed.item);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(kept.len() as u64, entries);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    println!("{entries} entries in {seconds:.2} s, {:.0} a second; {peak}", entries as f64 / seconds);
}

/// A header with its body, filled up to whole blocks.
fn header(bytes: &mut Vec<u8>, name: &str, kind: u8, body: &[u8]) {
    let start = bytes.len();
    bytes.resize(start + 512, 0);
    let block = &mut bytes[start..];
    let fields: [(usize, &[u8]); 8] = [
        (0, name.as_bytes()),
        (100, b"0000644"),
        (108, b"0000000"),
        (116, b"0000000"),
        (136, b"00000000000"),
        (148, b"        "),
        (156, &[kind]),
        (257, b"ustar\x0000"),
    ];
    for (at, field) in fields {
        block[at..at + field.len()].copy_from_slice(field);
    }
    block[124..135].copy_from_slice(format!("{:011o}", body.len()).as_bytes());
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
}
