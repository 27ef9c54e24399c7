//! The ports that a flow may get, one after the other.

use super::Translations;
use crate::{
    layout::{PoolRange, ReturnKey, Turn},
    select,
};

/// Ports that a search looks at: where 98 % are taken, it misses for one flow in 30,000.
pub const SEARCHED: u32 = 512;

/// A flow that needs a port, and the one that it is at.
///
/// Aligned, since addresses are read by words, also on the stack.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct Search {
    key: ReturnKey,
    /// Ports that it was at before.
    attempts: u32,
    port: u16,
    place: u8,
    found: u8,
    range: PoolRange,
    turn: Turn,
}

impl Search {
    /// For a flow whose answers come like this, but for the pool's address and port.
    #[inline(always)]
    pub(super) const fn new(key: ReturnKey, range: PoolRange, turn: Turn) -> Self {
        Self { key, attempts: 0, port: 0, place: 0, found: 0, range, turn }
    }

    /// Goes on to the next port. `false` where the table of pools has no such address.
    #[inline(always)]
    pub(super) fn step(&mut self, tables: &impl Translations) -> bool {
        (self.place, self.port) = self.range.candidate(self.turn, self.attempts);
        self.attempts += 1;
        let Some(address) = tables.pool(self.place) else { return false };
        self.key.set_pool(address, self.port);
        true
    }

    /// Goes on to the next port. Whether it is free.
    #[inline(always)]
    pub fn finds(&mut self, tables: &impl Translations) -> bool {
        let is_free =
            self.step(tables) && tables.returns(&self.key).is_none() && !self.is_served(tables);
        self.found = u8::from(is_free);
        is_free
    }

    /// Whether the port that it is at was found free.
    #[inline(always)]
    pub const fn has_found(&self) -> bool {
        self.found != 0
    }

    /// Whether the port is a service's: what comes there is no answer.
    #[inline(always)]
    pub(super) fn is_served(&self, tables: &impl Translations) -> bool {
        select::is_served(&self.key.pool, self.port, self.key.protocol as u8, tables)
    }

    /// How answers come to the port that it is at.
    #[inline(always)]
    pub(super) const fn key(&self) -> &ReturnKey {
        &self.key
    }

    /// The pool address's place, and the port.
    #[inline(always)]
    pub(super) const fn at(&self) -> (u8, u16) {
        (self.place, self.port)
    }
}
