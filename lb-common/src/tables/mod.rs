//! The one seam between the packet path and where its tables live: kernel maps in production,
//! mapped memory in the agent, plain collections in tests.

use crate::{
    hash::KeySource,
    id::BackendId,
    layout::{BackendEntry, Directory, ServiceEntry, Slot, VipEntry},
};

/// Look-ups of the packet path. `None` is an index past the end of a table.
pub trait Tables {
    /// Keys of the flow hash.
    fn keys(&self) -> &impl KeySource;

    /// Seeds and pilots of the two tables below.
    fn directory(&self) -> Option<&Directory>;

    /// An entry of the VIP table, both halves counted through.
    fn vip(&self, index: u32) -> Option<&VipEntry>;

    /// An entry of the service table, both halves counted through.
    fn service(&self, index: u32) -> Option<&ServiceEntry>;

    /// A slot of the slot table.
    fn slot(&self, index: u32) -> Option<Slot>;

    /// A backend's place.
    fn backend(&self, id: BackendId) -> Option<&BackendEntry>;
}

#[cfg(any(test, feature = "std"))]
mod memory;

#[cfg(any(test, feature = "std"))]
pub use memory::{MemoryBuffer, MemoryTables};
