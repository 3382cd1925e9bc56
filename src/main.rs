//! The refmount command.

fn main() {}
