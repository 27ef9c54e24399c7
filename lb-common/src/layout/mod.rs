//! The layout of every map that the program and the agent share.
//!
//! All of it is `repr(C)` with explicit padding, in host byte order but where a name says `be`.
//! A change of any of it is a new [`VERSION`].

mod answer;
mod backend;
mod bench;
mod client_route;
mod counters;
mod directory;
mod flow;
mod fullnat;
mod next_hop;
mod probe;
mod reply;
mod slot;
mod trace;
mod way;

pub use answer::{AnswerEntry, AnswerKey};
pub use backend::{BackendEntry, BackendRecord, Kind, OUTER_CAPACITY};
pub use bench::{
    BENCH_FRAME_LEN, BenchPlan, ClassicConnection, ClassicFlow, ClassicService, ClassicVip,
};
pub use client_route::{CLIENT_ROUTES, ClientRoute, ClientRouteTable, ClientRoutes, client_bits};
pub use counters::BackendCounters;
pub use directory::{
    ANSWERS, ANSWERS_OF_ANY_PORT, Affinity, Directory, FAMILY_V4, FAMILY_V6, FULLNAT, Half, PILOTS,
    PROTOCOL_TCP, PROTOCOL_UDP, SERVICE_POSITIONS, ServiceEntry, VIP_ECHO, VIP_POSITIONS, VipEntry,
    service_key,
};
pub use flow::{
    Beginning, FlowCounters, FlowKey, FlowPlace, FlowRecord, FlowState, FlowWords, GLIMPSES,
    Glimpse, Owner,
};
pub use fullnat::{
    FullnatCounters, Handed, POOLS, PoolRange, Progress, QuietLimits, ReturnKey, Stage,
    TranslatedPlace, TranslatedWords, Translation, Turn,
};
pub use next_hop::{NAMESPACES, Namespaces, NextHop};
pub use probe::{Endpoint, ProbePort, ProbeTarget};
pub use reply::RepliesInSecond;
pub use slot::{BACKEND_NUMBERS, Slot};
pub use trace::TraceRecord;
pub use way::{
    MOMENT_SHIFT, Sought, UnresolvedClient, WAYS, Way, WayEntry, WayQuestion, other_place,
};

#[cfg(any(test, feature = "std"))]
pub(crate) use directory::bucket;

/// The version of all the layouts in this module, kept in [`Directory::version`].
pub const VERSION: u32 = 6;

/// Marks types that are plain memory: every bit pattern is a value, and no byte is padding.
///
/// # Safety
/// The type is `repr(C)`, holds only integers and arrays of them, and has no implicit padding.
pub unsafe trait Plain: Copy + 'static {}

// SAFETY: every bit pattern is an integer.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above, in bytes.
unsafe impl Plain for crate::network::Address {}
