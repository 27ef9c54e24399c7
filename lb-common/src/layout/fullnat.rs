//! What is known of flows under `fullnat`, by which both their directions are rewritten.

use core::cell::Cell;

use super::Plain;
use crate::{
    flow::flag,
    id::{BackendId, ServiceId},
    layout::{BackendRecord, FlowKey},
    network::{Address, TCP},
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

/// How far a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Nothing came from the backend yet.
    Opening = 0,
    /// The backend answered, and the client didn't go on yet: it may be forged.
    Answered = 1,
    /// Both spoke after that; UDP: both spoke.
    Open = 2,
    /// The client has no more to say.
    ClientDone = 3,
    /// The backend has no more to say.
    BackendDone = 4,
    /// Nobody has, and the backend said so first: it remembers the connection (TIME-WAIT).
    TimeWait = 5,
    /// Nobody has, and the client said so first: the backend forgets it.
    Closed = 6,
    /// A RST, and nothing after it.
    Reset = 7,
}

/// How long flows may be quiet, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuietLimits {
    /// One that the backend or the client hasn't answered.
    pub opening: u32,
    /// One that is open: the service's.
    pub idle: u32,
    /// One that the backend may remember after its end.
    pub closing: u32,
}

const fn least(one: u32, other: u32) -> u32 {
    if one < other { one } else { other }
}

/// After a RST, or where the client closed first, nobody remembers the connection; what is still
/// under way is over by then.
const LINGERING_SECONDS: u32 = 10;

impl Stage {
    /// Every one, and its name in JSON and tables.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Opening, "opening"),
        (Self::Answered, "answered"),
        (Self::Open, "open"),
        (Self::ClientDone, "client_done"),
        (Self::BackendDone, "backend_done"),
        (Self::TimeWait, "time_wait"),
        (Self::Closed, "closed"),
        (Self::Reset, "reset"),
    ];

    /// Its name in JSON and tables.
    pub const fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// A new connection may take the flow's place.
    #[inline(always)]
    pub const fn has_ended(self) -> bool {
        self as u8 >= Self::TimeWait as u8
    }

    /// A flood could have made it up.
    #[inline(always)]
    pub const fn is_embryonic(self) -> bool {
        self as u8 <= Self::Answered as u8
    }

    /// How long in seconds such a flow may be quiet before it is over.
    pub const fn quiet_limit(self, limits: QuietLimits) -> u32 {
        match self {
            Self::Opening | Self::Answered => least(limits.opening, limits.idle),
            Self::Open | Self::ClientDone | Self::BackendDone => limits.idle,
            Self::TimeWait => limits.closing,
            Self::Closed | Self::Reset => least(LINGERING_SECONDS, limits.closing),
        }
    }

    /// After a packet of the client. A SYN changes nothing: who begins anew is told elsewhere.
    #[inline(always)]
    pub const fn after_client(self, protocol: u8, flags: u8) -> Self {
        if protocol != TCP {
            return self;
        }
        if flags & flag::RST != 0 {
            return Self::Reset;
        }
        if flags & flag::SYN != 0 {
            return self;
        }
        let fin = flags & flag::FIN != 0;
        match self {
            Self::Answered | Self::Open | Self::Reset if fin => Self::ClientDone,
            Self::BackendDone if fin => Self::TimeWait,
            // A RST before it was forged, or late.
            Self::Answered | Self::Reset => Self::Open,
            other => other,
        }
    }

    /// After a packet of the backend.
    #[inline(always)]
    pub const fn after_backend(self, protocol: u8, flags: u8) -> Self {
        if protocol != TCP {
            return Self::Open;
        }
        if flags & flag::RST != 0 {
            return Self::Reset;
        }
        let fin = flags & flag::FIN != 0;
        match self {
            Self::Opening => Self::Answered,
            Self::Answered | Self::Open | Self::Reset if fin => Self::BackendDone,
            Self::ClientDone if fin => Self::Closed,
            Self::Reset => Self::Answered,
            other => other,
        }
    }

    #[inline(always)]
    const fn from_bits(bits: u32) -> Self {
        match bits & 7 {
            0 => Self::Opening,
            1 => Self::Answered,
            2 => Self::Open,
            3 => Self::ClientDone,
            4 => Self::BackendDone,
            5 => Self::TimeWait,
            6 => Self::Closed,
            _ => Self::Reset,
        }
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

/// Whose turn it is to get a port: what a CPU counts of a backend's flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Turn {
    /// Flows that this CPU began with the backend.
    pub count: u32,
    /// This CPU's number.
    pub cpu: u32,
    /// How many there are; at least 1.
    pub cpus: u32,
}

/// A backend's pool: addresses that stand one behind the other in the table of pools, each with the
/// same ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PoolRange {
    /// The first address's place.
    pub first: u8,
    /// Addresses; 0 where there is none.
    pub count: u8,
    /// The first port, host order.
    pub first_port: u16,
    /// Ports; 0 where there is none.
    pub ports: u16,
}

impl PoolRange {
    /// Ports of all addresses: flows that a backend may have at a time, of one protocol.
    #[inline(always)]
    pub const fn total(self) -> u32 {
        self.count as u32 * self.ports as u32
    }

    /// A place in the table of pools, and a port: one of [`PoolRange::total`]. Of none, whatever.
    ///
    /// The first try is the next port in turn, from a part of the ports that is the CPU's own: so
    /// each is used again as late as can be. Later tries are anywhere: those in turn may be in long
    /// use, one like the other.
    #[inline(always)]
    pub const fn candidate(self, turn: Turn, attempt: u32) -> (u8, u16) {
        // Never 0, where a division would end in a panic.
        let (total, ports) = (self.total() | (self.total() == 0) as u32, self.ports as u32);
        let ports = ports | (ports == 0) as u32;
        let cpus = turn.cpus | (turn.cpus == 0) as u32;
        let index = if attempt == 0 {
            let own = total as u64 * turn.cpu as u64 / cpus as u64;
            ((own + turn.count as u64) % total as u64) as u32
        } else {
            let tried = (turn.count as u64) << 32 | (turn.cpu as u64) << 16 | attempt as u64;
            crate::hash::reduce(crate::hash::spread(tried), total)
        };
        let place = self.first.wrapping_add((index / ports) as u8);
        (place, self.first_port.wrapping_add((index % ports) as u16))
    }
}

impl BackendRecord {
    /// Under `fullnat`: the pool that its packets come from.
    #[inline(always)]
    pub const fn pool(&self) -> PoolRange {
        let outer = &self.outer;
        PoolRange {
            first: outer[18],
            count: outer[19],
            first_port: u16::from_be_bytes([outer[20], outer[21]]),
            ports: u16::from_be_bytes([outer[22], outer[23]]),
        }
    }

    /// Under `fullnat`: the VIP that clients know; an IPv4 address is mapped.
    #[inline(always)]
    pub const fn vip(&self) -> &Address {
        const { assert!(super::OUTER_CAPACITY >= 24 + size_of::<Address>()) };
        // SAFETY: as many bytes from there on, by the assertion.
        unsafe { &*self.outer.as_ptr().add(24).cast::<Address>() }
    }

    /// Under `fullnat` between families: the longest packet, as it leaves, that the way to the backend
    /// takes, in bytes.
    #[inline(always)]
    pub const fn mtu_across(&self) -> u16 {
        u16::from_be_bytes([self.outer[40], self.outer[41]])
    }

    /// Sets [`BackendRecord::mtu_across`]. What a packet's length was as it came says nothing.
    pub fn set_mtu_across(&mut self, mtu: u16) {
        self.outer[40..42].copy_from_slice(&mtu.to_be_bytes());
        self.mtu = u16::MAX;
    }

    /// Sets what [`BackendRecord::pool`] and [`BackendRecord::vip`] read.
    pub fn set_fullnat(&mut self, pool: PoolRange, vip: &Address) {
        self.outer[18] = pool.first;
        self.outer[19] = pool.count;
        self.outer[20..22].copy_from_slice(&pool.first_port.to_be_bytes());
        self.outer[22..24].copy_from_slice(&pool.ports.to_be_bytes());
        self.outer[24..40].copy_from_slice(vip);
    }
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
    use std::collections::BTreeSet;

    use super::*;
    use crate::network::UDP;

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

    #[derive(Clone, Copy)]
    enum By {
        Client(u8),
        Backend(u8),
    }
    use By::{Backend, Client};
    const SYN: u8 = flag::SYN;
    const ACK: u8 = flag::ACK;
    const FIN: u8 = flag::FIN;
    const RST: u8 = flag::RST;

    fn after(packets: &[By]) -> Stage {
        packets.iter().fold(Stage::Opening, |stage, packet| match *packet {
            Client(flags) => stage.after_client(TCP, flags),
            Backend(flags) => stage.after_backend(TCP, flags),
        })
    }

    #[test]
    fn connections_go_through_their_stages() {
        let open = [Client(SYN), Backend(SYN | ACK), Client(ACK)];
        assert_eq!(after(&open[..1]), Stage::Opening);
        assert_eq!(after(&open[..2]), Stage::Answered);
        assert_eq!(after(&open), Stage::Open);
        let then = |more: &[By]| after(&[&open[..], more].concat());
        assert_eq!(then(&[Client(FIN | ACK)]), Stage::ClientDone);
        assert_eq!(then(&[Client(FIN | ACK), Backend(ACK), Client(ACK)]), Stage::ClientDone);
        assert_eq!(then(&[Client(FIN | ACK), Backend(FIN | ACK)]), Stage::Closed);
        assert_eq!(then(&[Backend(FIN | ACK), Client(FIN | ACK)]), Stage::TimeWait);
        assert_eq!(then(&[Backend(FIN | ACK), Client(ACK)]), Stage::BackendDone);
        let closed = [Client(FIN), Backend(FIN), Client(ACK), Backend(ACK)];
        assert_eq!(then(&closed), Stage::Closed);
        assert_eq!(then(&[Client(RST)]), Stage::Reset);
        assert_eq!(then(&[Backend(RST | ACK)]), Stage::Reset);
    }

    #[test]
    fn forged_packets_do_little() {
        // Nobody opens a flow alone.
        assert_eq!(after(&[Client(ACK), Client(ACK), Client(FIN | ACK)]), Stage::Opening);
        assert_eq!(after(&[Client(SYN), Backend(RST | ACK)]), Stage::Reset);
        // A RST that nobody believed.
        let open = [Client(SYN), Backend(SYN | ACK), Client(ACK)];
        assert_eq!(after(&[&open[..], &[Client(RST), Client(ACK)]].concat()), Stage::Open);
        let answered = [&open[..], &[Client(RST), Backend(ACK), Client(ACK)]].concat();
        assert_eq!(after(&answered), Stage::Open);
        // A SYN moves nobody.
        assert_eq!(after(&[&open[..], &[Client(SYN)]].concat()), Stage::Open);
    }

    #[test]
    fn datagrams_are_open_once_answered() {
        assert_eq!(Stage::Opening.after_client(UDP, 0), Stage::Opening);
        assert_eq!(Stage::Opening.after_backend(UDP, 0), Stage::Open);
        assert_eq!(Stage::Open.after_client(UDP, 0), Stage::Open);
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

    const RANGE: PoolRange = PoolRange { first: 250, count: 2, first_port: 65_000, ports: 536 };

    /// As long as none is taken, no port comes twice before all came.
    #[test]
    fn ports_come_in_turn() {
        for cpus in [1, 2, 7] {
            for cpu in 0..cpus {
                let turn = |count| Turn { count, cpu, cpus };
                let ports = |from: u32| (from..from + RANGE.total()).map(turn);
                let all: BTreeSet<_> = ports(5).map(|turn| RANGE.candidate(turn, 0)).collect();
                assert_eq!(all.len() as u32, RANGE.total());
                assert!(all.iter().all(|(pool, port)| {
                    (250..252).contains(pool) && (65_000..=65_535).contains(port)
                }));
            }
        }
        let first = |cpu| RANGE.candidate(Turn { count: 0, cpu, cpus: 2 }, 0);
        assert_eq!([first(0), first(1)], [(250, 65_000), (251, 65_000)]);
    }

    /// Whatever is in long use, further tries find what is left, as often as chance has it.
    #[test]
    fn later_tries_are_anywhere() {
        let found = |tries: u32, free: u16| {
            let mut found = 0;
            for count in 0..10_000 {
                let turn = Turn { count, cpu: 1, cpus: 4 };
                found += u32::from((1..tries).any(|attempt| {
                    let (pool, port) = RANGE.candidate(turn, attempt);
                    assert!((250..252).contains(&pool) && port >= 65_000);
                    pool == 250 && port > u16::MAX - free
                }));
            }
            found
        };
        // A tenth is free, as 79 % of the flows find: 1 - 0.9^15.
        let few = found(16, 107);
        assert!((7_500..8_300).contains(&few), "{few}");
        // A fiftieth, as nearly all do that go on to a search.
        let many = found(16 + crate::fullnat::SEARCHED, 22);
        assert!(many >= 9_995, "{many}");
    }

    #[test]
    fn records_hold_what_packets_need() {
        let mut record = BackendRecord { address: [7; 16], port: 8080, ..BackendRecord::VACANT };
        record.set_destination();
        record.set_fullnat(RANGE, &[9; 16]);
        assert_eq!(record.destination(), (&[7; 16], 8080));
        assert_eq!((record.pool(), record.vip()), (RANGE, &[9; 16]));
    }
}
