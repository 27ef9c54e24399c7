//! What is remembered of a flow in a moving slot.

use core::cell::Cell;

use super::Plain;
use crate::{id::BackendId, network::Address};

/// A flow: the service stands for VIP and protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct FlowKey {
    /// The client's address; an IPv4 address is mapped.
    pub source: Address,
    /// Source and destination port as they lie in the packet.
    pub ports: u32,
    /// A [`crate::id::ServiceId`].
    pub service: u32,
}

/// What was seen of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowState {
    /// Nothing but SYNs.
    Opening = 0,
    /// Packets that only a flow under way sends.
    Open = 1,
    /// A FIN: the client has no more to say.
    Closing = 2,
    /// A RST, and nothing after it.
    Reset = 3,
}

impl FlowState {
    /// How long in seconds such a flow of a service with this idle limit may be quiet before its
    /// record is over.
    ///
    /// A handshake has the time in which Linux gives one up (`tcp_synack_retries`: 63 s); what
    /// follows a FIN has twice the longest life of a segment in Linux (`TCP_TIMEWAIT_LEN`).
    pub const fn quiet_limit(self, idle_seconds: u32) -> u32 {
        let limit = match self {
            Self::Opening => 75,
            Self::Open => return idle_seconds,
            Self::Closing => 120,
            Self::Reset => 10,
        };
        if limit < idle_seconds { limit } else { idle_seconds }
    }

    /// A new connection may take the flow's place.
    #[inline(always)]
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Closing | Self::Reset)
    }

    #[inline(always)]
    const fn from_bits(bits: u64) -> Self {
        match bits & 3 {
            0 => Self::Opening,
            1 => Self::Open,
            2 => Self::Closing,
            _ => Self::Reset,
        }
    }
}

/// With whom a flow lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The backend's number.
    pub backend: BackendId,
    /// [`super::BackendRecord::generation`] of the backend that the flow began with.
    pub generation: u32,
}

/// A flow's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// With whom it lives.
    pub owner: Owner,
    /// The upper half of the flow's hash: it tells the slot in a ring of any size.
    pub hash: u32,
    /// When its last packet came, in seconds of the monotonic clock; 29 bits.
    pub seen: u32,
    /// It was under way when it was first seen: where records were lost, it may live with another.
    pub unsure: bool,
    /// What was seen of it.
    pub state: FlowState,
}

impl FlowRecord {
    /// Seconds since its last packet. A clock that another CPU read a moment earlier is no
    /// reason for a huge figure.
    #[inline(always)]
    pub const fn quiet_seconds(&self, now: u32) -> u32 {
        now.saturating_sub(self.seen)
    }

    /// Too long ago for the flow to live on.
    #[inline(always)]
    pub const fn is_over(&self, now: u32, idle_seconds: u32) -> bool {
        self.quiet_seconds(now) > self.state.quiet_limit(idle_seconds)
    }
}

/// Where a record stands, shared by all CPUs: two words, each read and written whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowPlace {
    /// The backend's number, then its generation in the upper half.
    owner: Cell<u64>,
    /// The state (2 bits), whether it is unsure (1), the second (29 bits), then the hash.
    progress: Cell<u64>,
}

/// [`FlowPlace`] as bytes are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowWords([u64; 2]);

impl FlowPlace {
    /// The record.
    #[inline(always)]
    pub fn get(&self) -> FlowRecord {
        // SAFETY: a cell is readable and aligned; other CPUs write whole words.
        let (owner, progress) = unsafe {
            (self.owner.as_ptr().read_volatile(), self.progress.as_ptr().read_volatile())
        };
        FlowWords([owner, progress]).into()
    }

    /// Replaces the owner.
    #[inline(always)]
    pub fn set_owner(&self, owner: Owner) {
        // SAFETY: a cell is writable and aligned.
        unsafe { self.owner.as_ptr().write_volatile(owner_word(owner)) };
    }

    /// Notes a packet, if anything is new about it: the line is every CPU's.
    #[inline(always)]
    pub fn set_progress(&self, before: &FlowRecord, seen: u32, state: FlowState) {
        if before.seen != seen || before.state as u8 != state as u8 {
            let word = progress_word(before.hash, seen, before.unsure, state);
            // SAFETY: a cell is writable and aligned.
            unsafe { self.progress.as_ptr().write_volatile(word) };
        }
    }
}

impl From<FlowWords> for FlowPlace {
    #[inline(always)]
    fn from(words: FlowWords) -> Self {
        Self { owner: Cell::new(words.0[0]), progress: Cell::new(words.0[1]) }
    }
}

impl From<FlowWords> for FlowRecord {
    #[inline(always)]
    fn from(FlowWords([owner, progress]): FlowWords) -> Self {
        Self {
            owner: Owner { backend: BackendId(owner as u32), generation: (owner >> 32) as u32 },
            hash: (progress >> 32) as u32,
            seen: progress as u32 >> 3,
            unsure: progress & 4 != 0,
            state: FlowState::from_bits(progress),
        }
    }
}

impl From<FlowRecord> for FlowWords {
    #[inline(always)]
    fn from(record: FlowRecord) -> Self {
        let progress = progress_word(record.hash, record.seen, record.unsure, record.state);
        Self([owner_word(record.owner), progress])
    }
}

#[inline(always)]
const fn owner_word(owner: Owner) -> u64 {
    owner.backend.0 as u64 | (owner.generation as u64) << 32
}

#[inline(always)]
const fn progress_word(hash: u32, seen: u32, unsure: bool, state: FlowState) -> u64 {
    (hash as u64) << 32 | (seen << 3 | (unsure as u32) << 2 | state as u32) as u64
}

/// A trace of a flow that got no record, because the budget was spent: if another packet of it
/// comes soon, it isn't one that a flood made up.
///
/// One word in a small table by the flow's hash, where it is soon overwritten: the hash's upper
/// half, then the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Glimpse(u32);

/// Places for glimpses; a power of two. At 200,000 packets a second each lasts for 1.3 s.
pub const GLIMPSES: u32 = 1 << 18;

impl Glimpse {
    const SOON_SECONDS: u16 = 30;

    /// Of a packet of the flow with this hash, now.
    #[inline(always)]
    pub const fn new(hash: u32, second: u32) -> Self {
        Self(hash & 0xffff_0000 | second & 0xffff)
    }

    /// Its place in the table.
    #[inline(always)]
    pub const fn place(hash: u32) -> u32 {
        hash & (GLIMPSES - 1)
    }

    /// Whether it is of the same flow as an earlier one, and not long after it.
    #[inline(always)]
    pub const fn follows(self, earlier: Self) -> bool {
        let since = (self.0 as u16).wrapping_sub(earlier.0 as u16);
        self.0 >> 16 == earlier.0 >> 16 && since <= Self::SOON_SECONDS
    }
}

/// Who shares a budget of new records: what one kind of forged packets spends, no other lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// A SYN.
    Opening,
    /// Another packet of a TCP connection.
    UnderWay,
    /// A datagram.
    Datagram,
}

/// What one CPU remembered of flows in moving slots, and what it may still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowCounters {
    /// New records.
    pub recorded: u64,
    /// Packets that opened a flow and got no record: the budget was spent.
    pub over_budget_opening: u64,
    /// Other packets that got no record: the budget was spent.
    pub over_budget: u64,
    /// Of both, packets of flows that had come before: the budget of those was spent, too.
    pub over_budget_again: u64,
    /// Packets that got no record: the table was full.
    pub table_full: u64,
    /// Records whose backend was dead or gone and was replaced.
    pub picked_anew: u64,
    /// The second that the two fields below count in.
    pub second: u32,
    /// Records of opening flows in this second.
    pub opening_in_second: u32,
    /// Records of TCP connections under way in this second.
    pub others_in_second: u32,
    /// Records of UDP flows in this second.
    pub datagrams_in_second: u32,
    /// Records beyond that in this second, of flows that had come before.
    pub again_in_second: u32,
    /// Zero.
    pub reserved: u32,
}

// SAFETY: bytes and two u32, repr(C), 24 bytes.
unsafe impl Plain for FlowKey {}
// SAFETY: two u64, repr(C).
unsafe impl Plain for FlowWords {}
// SAFETY: six u64 and six u32, repr(C).
unsafe impl Plain for FlowCounters {}

const _: () = {
    assert!(size_of::<FlowKey>() == 24);
    assert!(size_of::<FlowPlace>() == 16 && size_of::<FlowWords>() == 16);
    assert!(size_of::<FlowCounters>() == 72);
};

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> FlowRecord {
        FlowRecord {
            owner: Owner { backend: BackendId(7), generation: u32::MAX },
            hash: 0xdead_beef,
            seen: (1 << 29) - 1,
            unsure: true,
            state: FlowState::Closing,
        }
    }

    #[test]
    fn records_survive_a_round_trip() {
        assert_eq!(FlowRecord::from(FlowWords::from(record())), record());
        assert_eq!(FlowPlace::from(FlowWords::from(record())).get(), record());
    }

    #[test]
    fn parts_change_alone() {
        let place = FlowPlace::from(FlowWords::from(record()));
        let owner = Owner { backend: BackendId(9), generation: 1 };
        place.set_owner(owner);
        assert_eq!(place.get(), FlowRecord { owner, ..record() });
        place.set_progress(&record(), 5, FlowState::Open);
        assert_eq!(place.get(), FlowRecord { owner, seen: 5, state: FlowState::Open, ..record() });
    }

    #[test]
    fn a_glimpse_knows_its_flow_for_a_while() {
        let first = Glimpse::new(0xabcd_1234, 70_000);
        assert!(Glimpse::new(0xabcd_1234, 70_000).follows(first));
        assert!(Glimpse::new(0xabcd_1234, 70_030).follows(first));
        assert!(!Glimpse::new(0xabcd_1234, 70_031).follows(first));
        assert!(!Glimpse::new(0xabce_1234, 70_001).follows(first));
        assert!(Glimpse::new(7 << 16, 65_536).follows(Glimpse::new(7 << 16, 65_535)));
        assert_eq!(Glimpse::place(5 | 1 << 30), 5);
    }

    #[test]
    fn records_end_by_what_was_seen() {
        let at = |state| FlowRecord { seen: 100, state, ..record() };
        assert!(!at(FlowState::Open).is_over(1000, 900));
        assert!(at(FlowState::Open).is_over(1001, 900));
        assert!(at(FlowState::Reset).is_over(111, 900));
        assert!(!at(FlowState::Closing).is_over(219, 900));
        assert!(at(FlowState::Opening).is_over(131, 30), "no later than an open one");
        assert!(!at(FlowState::Open).is_over(99, 0), "clocks of CPUs may differ");
    }
}
