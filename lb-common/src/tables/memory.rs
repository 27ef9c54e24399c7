//! Tables and frames in plain memory, for running the packet path on the host.

use core::{
    cell::{Cell, RefCell},
    ops::Deref,
};
use std::{collections::BTreeMap, rc::Rc};

use super::{Reply, Tables};
use crate::{
    directory_builder::{DirectoryError, Entry, build},
    fullnat::{Entered, SEARCHED, Search, Translations},
    hash::{KeySource, Keys},
    id::BackendId,
    layout::{
        AnswerEntry, AnswerKey, BackendEntry, BackendRecord, Beginning, Directory, FlowKey,
        FlowPlace, FlowRecord, FlowWords, Handed, ReturnKey, ServiceEntry, Slot, TranslatedPlace,
        TranslatedWords, Turn, VERSION, VipEntry, Way,
    },
    network::Address,
    packet::Buffer,
};

/// The tables of the packet path as collections.
#[derive(Clone, Debug)]
pub struct MemoryTables {
    /// Keys of the flow hash.
    pub keys: Keys,
    /// Seeds and pilots; the first half is in force.
    pub directory: Box<Directory>,
    /// Entries of both halves.
    pub vips: Vec<VipEntry>,
    /// Entries of both halves.
    pub services: Vec<ServiceEntry>,
    /// The slot table.
    pub slots: Vec<Slot>,
    /// The backend table.
    pub backends: Vec<BackendEntry>,
    /// What the clock says, in seconds.
    pub now: u32,
    /// Records of flows.
    pub flows: RefCell<BTreeMap<FlowKey, Rc<FlowPlace>>>,
    /// What becomes of backends' answers.
    pub answers: BTreeMap<AnswerKey, AnswerEntry>,
    /// How many more records there may be of opening flows, and of others.
    pub budget: (Cell<u32>, Cell<u32>),
    /// How many more messages of its own the balancer may send.
    pub replies: Cell<u32>,
    /// Records whose backend was dead or gone.
    pub picked_anew: Cell<u32>,
    /// Addresses of pools.
    pub pools: Vec<Address>,
    /// Flows under `fullnat`.
    pub translated: RefCell<BTreeMap<FlowKey, Rc<TranslatedPlace>>>,
    /// Whose answers come where.
    pub returns: RefCell<BTreeMap<ReturnKey, Rc<FlowKey>>>,
    /// How many flows there may be under `fullnat`.
    pub translations: usize,
    /// Turns that were taken.
    pub turns: Cell<u32>,
    handed: Cell<Option<Handed>>,
    handed_way: Cell<Option<Way>>,
}

impl MemoryTables {
    /// Tables of these services, with empty rings and no backends.
    ///
    /// # Errors
    /// As [`build`].
    pub fn new(keys: Keys, services: &[Entry]) -> Result<Self, DirectoryError> {
        let tables = build(services)?;
        let slots = services.iter().map(|service| service.ring_start + service.ring_size).max();
        let mut vips = tables.vips.clone();
        vips.extend(tables.vips);
        let mut entries = tables.services.clone();
        entries.extend(tables.services);
        Ok(Self {
            keys,
            directory: Box::new(Directory {
                hash_seed: 0,
                version: VERSION,
                active: 0,
                halves: [tables.half, tables.half],
            }),
            vips,
            services: entries,
            slots: vec![Slot::default(); slots.unwrap_or(0) as usize],
            backends: Vec::new(),
            now: 0,
            flows: RefCell::default(),
            answers: BTreeMap::new(),
            budget: (Cell::new(u32::MAX), Cell::new(u32::MAX)),
            replies: Cell::new(u32::MAX),
            picked_anew: Cell::new(0),
            pools: Vec::new(),
            translated: RefCell::default(),
            returns: RefCell::default(),
            translations: usize::MAX,
            turns: Cell::new(0),
            handed: Cell::new(None),
            handed_way: Cell::new(None),
        })
    }

    /// Every record.
    pub fn records(&self) -> Vec<(FlowKey, FlowRecord)> {
        self.flows.borrow().iter().map(|(key, place)| (*key, place.get())).collect()
    }

    /// The backends that are in the tables.
    pub fn backend_mut(&mut self, id: BackendId) -> &mut BackendRecord {
        &mut self.backends[id.0 as usize].records[0]
    }

    /// Puts a record in force.
    pub fn set_backend(&mut self, id: BackendId, record: BackendRecord) {
        let place = id.0 as usize;
        if self.backends.len() <= place {
            self.backends.resize(place + 1, BackendEntry::VACANT);
        }
        self.backends[place] = BackendEntry { records: [BackendRecord { active: 0, ..record }; 2] };
    }
}

impl Tables for MemoryTables {
    fn keys(&self) -> &impl KeySource {
        &self.keys
    }

    fn directory(&self) -> Option<&Directory> {
        Some(&self.directory)
    }

    fn vip(&self, index: u32) -> Option<&VipEntry> {
        self.vips.get(index as usize)
    }

    fn service(&self, index: u32) -> Option<&ServiceEntry> {
        self.services.get(index as usize)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.slots.get(index as usize).copied()
    }

    fn backend(&self, id: BackendId) -> Option<&BackendEntry> {
        self.backends.get(id.0 as usize)
    }

    fn now(&self) -> u32 {
        self.now
    }

    fn flow(&self, key: &FlowKey) -> Option<impl Deref<Target = FlowPlace>> {
        self.flows.borrow().get(key).cloned()
    }

    fn answer(&self, key: AnswerKey) -> Option<impl Deref<Target = AnswerEntry>> {
        self.answers.get(&key)
    }

    fn hand_over(&self, handed: Handed) {
        self.handed.set(Some(handed));
    }

    fn remember(&self, key: &FlowKey, record: FlowRecord, first: Beginning) -> bool {
        let budget = if first == Beginning::Opening { &self.budget.0 } else { &self.budget.1 };
        let Some(left) = budget.get().checked_sub(1) else { return false };
        budget.set(left);
        let place = Rc::new(FlowPlace::from(FlowWords::from(record)));
        self.flows.borrow_mut().insert(*key, place);
        true
    }

    fn count_picked_anew(&self) {
        self.picked_anew.set(self.picked_anew.get() + 1);
    }

    fn may_reply(&self, _: Reply) -> bool {
        let left = self.replies.get();
        self.replies.set(left.saturating_sub(1));
        left > 0
    }
}

impl Translations for MemoryTables {
    fn handed_over(&self) -> Option<Handed> {
        self.handed.get()
    }

    fn hand_way(&self, way: &Way) {
        self.handed_way.set(Some(*way));
    }

    fn handed_way(&self) -> Option<Way> {
        self.handed_way.get()
    }

    fn translated<'t>(
        &'t self,
        flow: &FlowKey,
    ) -> Option<impl Deref<Target = TranslatedPlace> + use<'t>> {
        self.translated.borrow().get(flow).cloned()
    }

    fn returns<'t>(&'t self, answer: &ReturnKey) -> Option<impl Deref<Target = FlowKey> + use<'t>> {
        self.returns.borrow().get(answer).cloned()
    }

    fn pool(&self, place: u8) -> Option<&Address> {
        self.pools.get(usize::from(place))
    }

    fn turn(&self, _: BackendId) -> Turn {
        let count = self.turns.get();
        self.turns.set(count + 1);
        Turn { count, cpu: 0, cpus: 1 }
    }

    fn search(&self, search: &mut Search) -> bool {
        (0..SEARCHED).any(|_| search.finds(self))
    }

    fn take(&self, answer: &ReturnKey, flow: &FlowKey) -> Entered {
        let mut returns = self.returns.borrow_mut();
        if returns.contains_key(answer) {
            return Entered::Taken;
        }
        if returns.len() >= self.translations {
            return Entered::Full;
        }
        returns.insert(*answer, Rc::new(*flow));
        Entered::New
    }

    fn give_back(&self, answer: &ReturnKey) {
        self.returns.borrow_mut().remove(answer);
    }

    fn enter(&self, flow: &FlowKey, entry: TranslatedWords, replace: bool) -> Entered {
        let mut translated = self.translated.borrow_mut();
        if translated.contains_key(flow) != replace {
            return Entered::Taken;
        }
        if translated.len() >= self.translations && !replace {
            return Entered::Full;
        }
        translated.insert(*flow, Rc::new(entry.into()));
        Entered::New
    }

    fn count_opened(&self) {}

    fn identification(&self) -> u16 {
        self.turns.get() as u16 | 0x5a00
    }
}

/// A frame with room in front, like a driver's buffer.
#[derive(Clone, Debug)]
pub struct MemoryBuffer {
    bytes: Vec<Cell<u8>>,
    start: usize,
    ingress_ifindex: u32,
}

impl MemoryBuffer {
    /// A frame that came in by an interface, with `headroom` bytes in front.
    pub fn new(frame: &[u8], headroom: usize, ingress_ifindex: u32) -> Self {
        let mut bytes = vec![Cell::new(0); headroom];
        bytes.extend(frame.iter().copied().map(Cell::new));
        Self { bytes, start: headroom, ingress_ifindex }
    }

    /// The frame as it is now.
    pub fn frame(&self) -> Vec<u8> {
        self.bytes[self.start..].iter().map(Cell::get).collect()
    }
}

// SAFETY: the addresses are those of the buffer's own cells, whose provenance is exposed, and the
// exclusive reference keeps everybody else away from them.
unsafe impl Buffer for &mut MemoryBuffer {
    fn start(&self) -> usize {
        self.bytes[self.start..].as_ptr().expose_provenance()
    }

    fn end(&self) -> usize {
        self.bytes.as_ptr_range().end.addr()
    }

    fn whole_len(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn ingress_ifindex(&self) -> u32 {
        self.ingress_ifindex
    }

    fn grow_front(&mut self, bytes: i32) -> bool {
        let Some(start) = self.start.checked_add_signed(-(bytes as isize)) else { return false };
        // The kernel, too, leaves at least an Ethernet header.
        if start + 14 > self.bytes.len() {
            return false;
        }
        self.start = start;
        true
    }

    fn cut(&mut self, len: usize) -> bool {
        let is_longer = self.start + len < self.bytes.len();
        if is_longer {
            self.bytes.truncate(self.start + len);
        }
        is_longer
    }
}
