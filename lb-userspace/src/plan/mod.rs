//! From what is desired and what is there to the changes between: pure.

mod change;

pub use change::{Actual, ActualService, Capacity, Change, DirectoryService};
