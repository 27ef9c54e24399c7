//! The one way in.
fn main() {}
