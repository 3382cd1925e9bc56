//! Everything that would change something.

use super::fixture::{Fixture, python};

#[test]
fn every_writing_operation_says_read_only() {
    let fixture = Fixture::new();
    assert_eq!(python(include_str!("writes.py"), &[&fixture.target]), "all refused\n");
    assert_eq!(std::fs::read(fixture.target.join("config.json")).unwrap(), fixture.files[0]);
}
