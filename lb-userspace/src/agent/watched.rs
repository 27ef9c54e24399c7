//! The running tables, with a note of what a packet on the host met in them.

use std::{cell::Cell, ops::Deref};

use lb_common::{
    answer::{Request, Ways},
    fullnat::{Entered, Search, Translations},
    hash::KeySource,
    id::BackendId,
    layout::{
        AnswerEntry, AnswerKey, BackendEntry, Beginning, Directory, FlowKey, FlowPlace, FlowRecord,
        Handed, Progress, ReturnKey, ServiceEntry, Slot, TranslatedPlace, TranslatedWords, Turn,
        VipEntry, Way,
    },
    network::Address,
    tables::{Reply, Tables},
    verdict::DropReason,
};

use crate::dataplane::DataPlane;

/// Tables for one packet, which changes nothing in them.
pub(super) struct Watched<'p> {
    plane: &'p DataPlane,
    slot: Cell<Option<(u32, Slot)>>,
    record: Cell<Option<FlowRecord>>,
    answer: Cell<Option<AnswerEntry>>,
    way: Cell<Option<(Way, bool)>>,
    handed: Cell<Option<Handed>>,
    translated: Cell<Option<Progress>>,
}

impl<'p> Watched<'p> {
    pub(super) fn new(plane: &'p DataPlane) -> Self {
        Self {
            plane,
            slot: Cell::new(None),
            record: Cell::new(None),
            answer: Cell::new(None),
            way: Cell::new(None),
            handed: Cell::new(None),
            translated: Cell::new(None),
        }
    }

    /// The slot that the packet's flow is in, and its index in the slot table.
    pub(super) fn slot(&self) -> Option<(u32, Slot)> {
        self.slot.get()
    }

    /// What becomes of the packet, where it is a backend's answer.
    pub(super) fn answer(&self) -> Option<AnswerEntry> {
        self.answer.get()
    }

    /// How an answer leaves, and whether by the routes that the program is told.
    pub(super) fn way(&self) -> Option<(Way, bool)> {
        self.way.get()
    }

    /// What is remembered of the packet's flow, where that was asked for: in a moving slot.
    pub(super) fn record(&self) -> Option<FlowRecord> {
        self.record.get()
    }

    /// How far the packet's flow is under `fullnat`, where it is known.
    pub(super) fn translated(&self) -> Option<Progress> {
        self.translated.get()
    }
}

impl Tables for Watched<'_> {
    fn keys(&self) -> &impl KeySource {
        self.plane.keys()
    }

    fn directory(&self) -> Option<&Directory> {
        self.plane.directory()
    }

    fn vip(&self, index: u32) -> Option<&VipEntry> {
        self.plane.vip(index)
    }

    fn service(&self, index: u32) -> Option<&ServiceEntry> {
        self.plane.service(index)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        let slot = Tables::slot(self.plane, index);
        self.slot.set(slot.map(|slot| (index, slot)));
        slot
    }

    fn backend(&self, id: BackendId) -> Option<&BackendEntry> {
        self.plane.backend(id)
    }

    fn now(&self) -> u32 {
        self.plane.now()
    }

    fn flow(&self, key: &FlowKey) -> Option<impl Deref<Target = FlowPlace>> {
        let place = self.plane.flow(key)?;
        self.record.set(Some(place.get()));
        Some(place)
    }

    fn answer(&self, key: AnswerKey) -> Option<impl Deref<Target = AnswerEntry>> {
        let entry = Tables::answer(self.plane, key)?;
        self.answer.set(Some(*entry));
        Some(entry)
    }

    fn hand_over(&self, handed: Handed) {
        self.handed.set(Some(handed));
    }

    fn remember(&self, _: &FlowKey, _: FlowRecord, _: Beginning) -> bool {
        true
    }

    fn count_picked_anew(&self) {}

    fn may_reply(&self, _: Reply) -> bool {
        true
    }
}

impl Ways for Watched<'_> {
    fn way(&self, request: Request<'_>) -> Result<Way, DropReason> {
        let Request { sought, source, family } = request;
        let found = self.plane.way(sought, *source, family).unwrap_or_else(|error| {
            tracing::warn!("no way to a client can be told: {error}");
            Err(DropReason::NoRoute)
        });
        self.way.set(found.ok());
        found.map(|(way, _)| way)
    }
}

impl<'p> Translations for Watched<'p> {
    fn handed_over(&self) -> Option<Handed> {
        self.handed.get()
    }

    /// It was noted as it was found.
    fn hand_way(&self, _: &Way) {}

    fn handed_way(&self) -> Option<Way> {
        self.way.get().map(|(way, _)| way)
    }

    fn translated<'t>(
        &'t self,
        flow: &FlowKey,
    ) -> Option<impl Deref<Target = TranslatedPlace> + use<'t, 'p>> {
        let place = self.plane.translated(flow)?;
        self.translated.set(Some(place.progress()));
        Some(place)
    }

    fn returns<'t>(
        &'t self,
        answer: &ReturnKey,
    ) -> Option<impl Deref<Target = FlowKey> + use<'t, 'p>> {
        self.plane.returns(answer)
    }

    fn pool(&self, place: u8) -> Option<&Address> {
        self.plane.pool(place)
    }

    fn turn(&self, backend: BackendId) -> Turn {
        self.plane.turn(backend)
    }

    fn search(&self, search: &mut Search) -> bool {
        self.plane.search(search)
    }

    fn take(&self, answer: &ReturnKey, flow: &FlowKey) -> Entered {
        self.plane.take(answer, flow)
    }

    fn give_back(&self, answer: &ReturnKey) {
        self.plane.give_back(answer);
    }

    fn enter(&self, flow: &FlowKey, entry: TranslatedWords, replace: bool) -> Entered {
        self.plane.enter(flow, entry, replace)
    }

    fn count_opened(&self) {}

    fn identification(&self) -> u16 {
        self.plane.identification()
    }
}
