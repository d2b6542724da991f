//! placeholder
/// Hooks for tests.
#[derive(Debug, Default)]
pub struct Faults;
