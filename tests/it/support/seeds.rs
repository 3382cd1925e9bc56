//! Keeps inputs that tests make as seeds of the fuzz targets, when `scripts/fuzz --seeds` asks for them.

use std::path::Path;

use refmount::base::{Algorithm, Digest};

/// Larger ones make every execution slow and say no more. A window, which some formats store as it is, still fits.
const SEED_BYTES_MAX: usize = 40 << 10;

/// Writes `data` as a seed of `target` below the directory that `REFMOUNT_FUZZ_SEEDS` names, if it does.
pub fn keep(target: &str, label: &str, data: &[u8]) {
    let Some(directory) = std::env::var_os("REFMOUNT_FUZZ_SEEDS") else { return };
    if data.len() > SEED_BYTES_MAX {
        return;
    }
    let directory = Path::new(&directory).join(target);
    std::fs::create_dir_all(&directory).unwrap();
    let label: String = label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let digest = Digest::of(Algorithm::Sha256, data);
    let file = std::fs::File::create(directory.join(format!("{label}-{}", &digest.hex()[..8]))).unwrap();
    std::io::Write::write_all(&mut &file, data).unwrap();
}
