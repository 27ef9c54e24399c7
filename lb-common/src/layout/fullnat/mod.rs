//! What is known of flows under `fullnat`, by which both their directions are rewritten.

mod pool;
mod stage;

use core::cell::Cell;

pub use pool::{PoolRange, Turn};
pub use stage::{QuietLimits, Stage};

use super::Plain;
use crate::{
    id::{BackendId, ServiceId},
    layout::{BackendRecord, FlowKey},
    network::Address,
};

/// Places for addresses of pools.
pub const POOLS: u32 = 256;

/// Where an answer comes from and goes: no two flows that live have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct ReturnKey {
    /// The backend's address; an IPv4 address is mapped.
    pub backend: Address,
    /// The address of a pool that its packets come from; an IPv4 address is mapped.
    pub pool: Address,
    /// The backend's port and the pool's, as they lie in the answer.
    pub ports: u32,
    /// TCP's or UDP's number. A word of its own: the compiler has bytes of zeros written by a call.
    pub protocol: u32,
}

impl ReturnKey {
    /// No flow's.
    pub const NONE: Self = Self { backend: [0; 16], pool: [0; 16], ports: 0, protocol: 0 };

    /// From ports as they lie in an answer.
    #[inline(always)]
    pub const fn new(backend: Address, pool: Address, ports: u32, protocol: u8) -> Self {
        Self { backend, pool, ports, protocol: protocol as u32 }
    }

    /// The same at another port, host order, of another address of a pool.
    #[inline(always)]
    pub fn set_pool(&mut self, pool: &Address, port: u16) {
        // By words: bytes would be copied one by one.
        self.pool = u128::from_ne_bytes(*pool).to_ne_bytes();
        self.ports = (u32::from_be(self.ports) & 0xffff_0000 | u32::from(port)).to_be();
    }
}

impl Default for ReturnKey {
    fn default() -> Self {
        Self::NONE
    }
}

/// With whom a flow lives, and as whom its packets come there. It never changes: another one is
/// another element of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The backend's number; 21 bits, as in a [`super::Slot`].
    pub backend: BackendId,
    /// The lowest 19 bits of its [`BackendRecord::generation`] when the flow began.
    pub generation: u32,
    /// The pool address's place.
    pub pool: u8,
    /// The pool's port, host order.
    pub port: u16,
}

const GENERATION_BITS: u32 = 19;
const GENERATIONS: u32 = 1 << GENERATION_BITS;
const BACKEND_BITS: u32 = 21;
const POOL_SHIFT: u32 = BACKEND_BITS;
const PORT_SHIFT: u32 = POOL_SHIFT + 8;
const GENERATION_SHIFT: u32 = PORT_SHIFT + 16;

impl Translation {
    /// Of a backend with this record.
    #[inline(always)]
    pub const fn new(backend: BackendId, record: &BackendRecord, pool: u8, port: u16) -> Self {
        Self { backend, generation: record.generation % GENERATIONS, pool, port }
    }

    /// The backend's number is still whose it was.
    #[inline(always)]
    pub const fn is_of(&self, record: &BackendRecord) -> bool {
        record.kind != 0 && record.generation % GENERATIONS == self.generation
    }

    /// Packed: the backend, which is never 0, in the lowest bits.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.backend.0 as u64
            | (self.pool as u64) << POOL_SHIFT
            | (self.port as u64) << PORT_SHIFT
            | (self.generation as u64) << GENERATION_SHIFT
    }

    /// The inverse of [`Translation::word`].
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self {
            backend: BackendId(word as u32 & ((1 << BACKEND_BITS) - 1)),
            generation: (word >> GENERATION_SHIFT) as u32,
            pool: (word >> POOL_SHIFT) as u8,
            port: (word >> PORT_SHIFT) as u16,
        }
    }
}

/// What was seen of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// When it began, in seconds of the monotonic clock.
    pub began: u32,
    /// When its last packet came, of either side; 29 bits.
    pub seen: u32,
    /// How far it is.
    pub stage: Stage,
}

impl Progress {
    /// Of a flow that begins.
    #[inline(always)]
    pub const fn begins(now: u32) -> Self {
        Self { began: now, seen: now, stage: Stage::Opening }
    }

    /// Seconds since its last packet. A clock that another CPU read a moment earlier is no
    /// reason for a huge figure.
    #[inline(always)]
    pub const fn quiet_seconds(&self, now: u32) -> u32 {
        now.saturating_sub(self.seen)
    }

    /// Too long ago for the flow to live on.
    #[inline(always)]
    pub const fn is_over(&self, now: u32, limits: QuietLimits) -> bool {
        self.quiet_seconds(now) > self.stage.quiet_limit(limits)
    }

    #[inline(always)]
    const fn word(self) -> u64 {
        (self.began as u64) << 32 | (self.seen << 3 | self.stage as u32) as u64
    }

    #[inline(always)]
    const fn from_word(word: u64) -> Self {
        let low = word as u32;
        Self { began: (word >> 32) as u32, seen: low >> 3, stage: Stage::from_bits(low) }
    }
}

/// Where a flow stands, shared by all CPUs: two words, each read and written whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TranslatedPlace {
    translation: Cell<u64>,
    progress: Cell<u64>,
}

/// [`TranslatedPlace`] as bytes are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TranslatedWords([u64; 2]);

impl TranslatedPlace {
    /// With whom the flow lives.
    #[inline(always)]
    pub fn translation(&self) -> Translation {
        // SAFETY: a cell is readable and aligned.
        Translation::from_word(unsafe { self.translation.as_ptr().read_volatile() })
    }

    /// What was seen of it.
    #[inline(always)]
    pub fn progress(&self) -> Progress {
        // SAFETY: a cell is readable and aligned; other CPUs write whole words.
        Progress::from_word(unsafe { self.progress.as_ptr().read_volatile() })
    }

    /// Notes a packet, if anything is new about it: the line is every CPU's.
    #[inline(always)]
    pub fn note(&self, before: Progress, after: Progress) {
        if before.word() != after.word() {
            // SAFETY: a cell is writable and aligned.
            unsafe { self.progress.as_ptr().write_volatile(after.word()) };
        }
    }
}

impl TranslatedWords {
    /// A flow as it begins.
    #[inline(always)]
    pub const fn new(translation: Translation, progress: Progress) -> Self {
        Self([translation.word(), progress.word()])
    }

    /// With whom the flow lives.
    pub const fn translation(&self) -> Translation {
        Translation::from_word(self.0[0])
    }

    /// What was seen of it.
    pub const fn progress(&self) -> Progress {
        Progress::from_word(self.0[1])
    }
}

impl From<TranslatedWords> for TranslatedPlace {
    #[inline(always)]
    fn from(words: TranslatedWords) -> Self {
        Self { translation: Cell::new(words.0[0]), progress: Cell::new(words.0[1]) }
    }
}

/// What a program of the balancer found of a packet, for the one that goes on with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Handed {
    /// A [`crate::id::ServiceId`].
    pub service: u32,
    /// Whom the ring has for it, or who sent it: a [`BackendId`].
    pub backend: u32,
    /// How long in seconds a flow may be quiet; of one that is known and goes to another family, as
    /// whom: [`Handed::pool_and_port`].
    pub idle_seconds: u32,
    /// Of one that is too long: the longest IP packet in bytes that its way takes.
    pub mtu: u32,
}

impl Handed {
    /// A packet of a known flow.
    #[inline(always)]
    pub const fn of_flow(service: ServiceId, translation: Translation) -> Self {
        let Translation { backend, pool, port, .. } = translation;
        let idle_seconds = (pool as u32) << 16 | port as u32;
        Self { service: service.0, backend: backend.0, idle_seconds, mtu: 0 }
    }

    /// The place of the pool's address that the packet leaves from, and the port, host order.
    #[inline(always)]
    pub const fn pool_and_port(&self) -> (u8, u16) {
        ((self.idle_seconds >> 16) as u8, self.idle_seconds as u16)
    }
}

/// What one CPU made of flows under `fullnat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FullnatCounters {
    /// Flows that began, also in the place of ended ones.
    pub opened: u64,
    /// Ports that were tried and taken.
    pub taken: u64,
    /// Searches for a port, where the first tries had none.
    pub searches: u64,
    /// The second of the monotonic clock that the next field is about.
    pub second: u32,
    /// Searches in that second that found none.
    pub in_vain: u32,
}

// SAFETY: bytes and a word at an offset of 32; the assertions below leave no room for padding.
unsafe impl Plain for ReturnKey {}
// SAFETY: two u64, repr(C).
unsafe impl Plain for TranslatedWords {}
// SAFETY: four u32, repr(C).
unsafe impl Plain for Handed {}
// SAFETY: three u64 and two u32, repr(C).
unsafe impl Plain for FullnatCounters {}

const _: () = {
    assert!(size_of::<ReturnKey>() == 40 && size_of::<FlowKey>() == 24);
    assert!(size_of::<TranslatedPlace>() == 16 && size_of::<TranslatedWords>() == 16);
    assert!(GENERATION_SHIFT + GENERATION_BITS == 64);
    assert!(super::BACKEND_NUMBERS <= 1 << BACKEND_BITS);
};

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: QuietLimits = QuietLimits { opening: 30, idle: 900, closing: 60 };

    #[test]
    fn words_survive_a_round_trip() {
        let translation = Translation {
            backend: BackendId((1 << 21) - 1),
            generation: GENERATIONS - 1,
            pool: u8::MAX,
            port: u16::MAX,
        };
        assert_eq!(Translation::from_word(translation.word()), translation);
        let progress = Progress { began: u32::MAX, seen: (1 << 29) - 1, stage: Stage::Reset };
        assert_eq!(Progress::from_word(progress.word()), progress);
        let words = TranslatedWords::new(translation, progress);
        let place = TranslatedPlace::from(words);
        assert_eq!((place.translation(), place.progress()), (translation, progress));
        let after = Progress { stage: Stage::Open, ..progress };
        place.note(progress, after);
        assert_eq!((place.translation(), place.progress()), (translation, after));
        for (number, (stage, name)) in (0..).zip(Stage::ALL) {
            assert_eq!((stage as u32, Stage::from_bits(number)), (number, stage));
            assert_eq!(stage.name(), name);
        }
    }

    #[test]
    fn a_former_user_of_a_number_is_another() {
        let record = BackendRecord { kind: 8, generation: 7, ..BackendRecord::VACANT };
        let translation = Translation::new(BackendId(3), &record, 0, 1024);
        assert!(translation.is_of(&record));
        assert!(!translation.is_of(&BackendRecord { generation: 8, ..record }));
        assert!(!translation.is_of(&BackendRecord { kind: 0, ..record }));
        let later = BackendRecord { generation: GENERATIONS + 7, ..record };
        assert!(translation.is_of(&later), "nobody lives so long");
    }

    #[test]
    fn flows_end_by_what_was_seen() {
        let over = |stage, quiet: u32| {
            Progress { began: 0, seen: 1000, stage }.is_over(1000 + quiet, LIMITS)
        };
        assert!(!over(Stage::Opening, 30) && over(Stage::Opening, 31));
        assert!(!over(Stage::Answered, 30) && over(Stage::Answered, 31));
        assert!(!over(Stage::ClientDone, 900) && over(Stage::Open, 901));
        assert!(!over(Stage::TimeWait, 60) && over(Stage::TimeWait, 61));
        assert!(!over(Stage::Closed, 10) && over(Stage::Reset, 11));
        let ahead = Progress { began: 0, seen: 1001, stage: Stage::Closed };
        assert!(!ahead.is_over(1000, LIMITS), "clocks of CPUs may differ");
    }
}
