//! References: what is accepted prints as something that means the same.

use refmount::base::{Algorithm, Digest, ErrorKind};
use refmount::oci::SourceRef;

/// Takes `data` for a reference that was typed.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let reference: SourceRef = match text.parse() {
        Ok(reference) => reference,
        Err(error) => {
            let error: refmount::base::Error = error;
            assert!(matches!(error.kind(), ErrorKind::Usage | ErrorKind::Unsupported), "{error}");
            return;
        }
    };
    check_printed(&reference);
    let digest = Digest::of(Algorithm::Sha256, data);
    let pinned = reference.pinned(&digest);
    assert_eq!(pinned.digest(), Some(&digest));
    check_printed(&pinned);
    if let SourceRef::Registry(registry) = &reference {
        // They become parts of a URL.
        let repository = registry.repository.as_str();
        assert!(!repository.is_empty() && repository.split('/').all(|part| !matches!(part, "" | "." | "..")));
        let tag = registry.tag.as_deref().unwrap_or_default();
        assert!(tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)), "{tag:?}");
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-:/[]".contains(c);
        assert!(repository.chars().all(is_plain) && registry.host.chars().all(is_plain), "{registry:?}");
    }
}

fn check_printed(reference: &SourceRef) {
    let printed = reference.to_string();
    match printed.parse::<SourceRef>() {
        Ok(again) => assert_eq!(again, *reference, "{printed:?} means something else"),
        Err(error) => panic!("{reference:?} prints as {printed:?}, which is refused: {error}"),
    }
}
