//! The one seam between the packet path and where its tables live: kernel maps in production,
//! mapped memory in the agent, plain collections in tests.

use core::ops::Deref;

use crate::{
    hash::KeySource,
    id::BackendId,
    layout::{
        AnswerEntry, AnswerKey, BackendEntry, Beginning, Directory, FlowKey, FlowPlace, FlowRecord,
        Handed, ServiceEntry, Slot, VipEntry,
    },
};

/// What the balancer sends of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reply {
    /// An echo reply.
    Echo = 0,
    /// That a packet was too big.
    TooBig = 1,
}

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

    /// Seconds of the clock that records name, which never goes back.
    fn now(&self) -> u32;

    /// A flow's record.
    fn flow(&self, key: &FlowKey) -> Option<impl Deref<Target = FlowPlace>>;

    /// What becomes of a backend's answers from there.
    fn answer(&self, key: AnswerKey) -> Option<impl Deref<Target = AnswerEntry>>;

    /// Tells the program that goes on with the packet what was found of it.
    fn hand_over(&self, handed: Handed);

    /// Remembers a flow, unless the budget of what its first packet is is spent, or the table
    /// full.
    fn remember(&self, key: &FlowKey, record: FlowRecord, first: Beginning) -> bool;

    /// A record's backend was dead or gone, and another one took its place.
    fn count_picked_anew(&self);

    /// Takes one of the messages that the balancer may send in this second; `false` where none is
    /// left.
    fn may_reply(&self, reply: Reply) -> bool;
}

#[cfg(any(test, feature = "std"))]
mod memory;

#[cfg(any(test, feature = "std"))]
pub use memory::{MemoryBuffer, MemoryTables};
