//! Stand-in; being written.
fn main() {}
