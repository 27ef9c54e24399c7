//! Whose packet it is, in a slot that moves: rules by which no flow leaves a backend that lives.
//!
//! A flow with a record stays with the record's backend. One without lives with the slot's
//! `previous`, but for a TCP SYN, which opens a new one with `current`. Both are recorded within a
//! budget. Where the budget is spent, a SYN goes where its next packet will go without a record,
//! so that it is right with none.

use crate::{
    flow::flag,
    id::BackendId,
    layout::{Beginning, FlowKey, FlowRecord, FlowState, Owner, Slot},
    network::TCP,
    tables::Tables,
};

/// What a packet in a moving slot says of its flow.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MovingFlow {
    /// The flow.
    pub key: FlowKey,
    /// The flow's hash.
    pub hash: u64,
    /// How long in seconds it may be quiet.
    pub idle_seconds: u32,
    /// TCP's or UDP's number.
    pub protocol: u8,
    /// TCP's flags; 0 for UDP.
    pub flags: u8,
    /// Zero.
    pub reserved: u16,
}

/// The backend of a packet, and others that its connection may live with instead.
///
/// One word, as a [`Slot`]'s: packed, because a BPF function returns no more than a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice(Slot);

impl Choice {
    /// The owner of a stable slot.
    #[inline(always)]
    pub const fn stable(slot: Slot) -> Self {
        Self(Slot(slot.current().0 as u64))
    }

    /// The backend; `None` if there is none for this packet.
    #[inline(always)]
    pub const fn backend(self) -> Option<BackendId> {
        self.0.current().known()
    }

    /// Whether there are others.
    #[inline(always)]
    pub const fn has_others(self) -> bool {
        self.0.is_moving()
    }

    /// Whom the connection may live with instead, the likelier first; `NONE` where nobody.
    #[inline(always)]
    pub const fn others(self) -> [BackendId; 2] {
        [self.0.previous(), self.0.elder()]
    }

    /// A slot's backends, the chosen one first.
    #[inline(always)]
    const fn of(chosen: BackendId, slot: Slot) -> Self {
        let columns = [slot.previous(), slot.current(), slot.elder()];
        let mut others = [BackendId::NONE; 2];
        let mut count = 0;
        let mut index = 0;
        while index < columns.len() {
            let other = columns[index];
            if other.0 != 0 && other.0 != chosen.0 && other.0 != others[0].0 && count < 2 {
                others[count] = other;
                count += 1;
            }
            index += 1;
        }
        if count == 0 {
            return Self(Slot(chosen.0 as u64));
        }
        Self(Slot::moving(chosen, others[0], others[1]))
    }
}

/// Chooses the backend of a packet in a moving slot, and remembers it.
///
/// Not inlined: what is rare shall not stand between the instructions of what is not.
#[inline(never)]
pub fn choose(slot: Slot, flow: &MovingFlow, tables: &impl Tables) -> Choice {
    let chosen = backend(slot, flow, tables);
    // Only of a TCP connection that is open can a backend tell whether it has it.
    if flow.protocol != TCP || flow.flags & flag::SYN != 0 {
        return Choice::stable(Slot::stable(chosen));
    }
    Choice::of(chosen, slot)
}

/// With whom a flow of a moving slot lives, where nothing shall be remembered of it.
#[inline(always)]
pub fn lives_with(slot: Slot, key: &FlowKey, tables: &impl Tables) -> BackendId {
    let owner = tables.flow(key).map(|place| place.get().owner);
    if let Some(owner) = owner
        && owner_of(owner.backend, tables) == Some(owner)
    {
        return owner.backend;
    }
    alive(slot.previous(), tables).unwrap_or(slot.current())
}

#[inline(always)]
fn backend(slot: Slot, flow: &MovingFlow, tables: &impl Tables) -> BackendId {
    let now = tables.now();
    let opens = flow.protocol == TCP && flow.flags & (flag::SYN | flag::ACK) == flag::SYN;
    let previous = alive(slot.previous(), tables);
    let without_record = previous.unwrap_or(BackendId::NONE);
    let without_record = if without_record.0 == 0 { slot.current() } else { without_record };
    let wanted = if opens { slot.current() } else { without_record };

    if let Some(place) = tables.flow(&flow.key) {
        let record = place.get();
        let begins_anew = if opens {
            record.state.has_ended() || record.is_over(now, flow.idle_seconds)
        } else {
            flow.protocol != TCP && record.is_over(now, flow.idle_seconds)
        };
        let lives = owner_of(record.owner.backend, tables) == Some(record.owner);
        if lives && !begins_anew {
            place.set_progress(&record, now, next_state(record.state, flow));
            return record.owner.backend;
        }
        // A flow that nobody takes doesn't begin: the record stays the former one's.
        let Some(owner) = owner_of(wanted, tables) else { return wanted };
        let state = if begins_anew { FlowState::Opening } else { record.state };
        let sure = FlowRecord { unsure: record.unsure && !begins_anew, ..record };
        place.set_progress(&sure, now, next_state(state, flow));
        place.set_owner(owner);
        if !begins_anew {
            tables.count_picked_anew();
        }
        return wanted;
    }

    // Nothing comes after a RST, and nobody opens a flow that nobody takes.
    if flow.protocol == TCP && flow.flags & flag::RST != 0 {
        return without_record;
    }
    let Some(owner) = owner_of(wanted, tables) else { return wanted };
    let record = FlowRecord {
        owner,
        hash: (flow.hash >> 32) as u32,
        seen: now,
        unsure: flow.protocol == TCP && !opens,
        state: next_state(FlowState::Opening, flow),
    };
    let first = match flow.protocol {
        TCP if opens => Beginning::Opening,
        TCP => Beginning::UnderWay,
        _ => Beginning::Datagram,
    };
    if tables.remember(&flow.key, record, first) { wanted } else { without_record }
}

/// A backend that packets of open flows may be sent to.
#[inline(always)]
fn alive(id: BackendId, tables: &impl Tables) -> Option<BackendId> {
    owner_of(id, tables).map(|owner| owner.backend)
}

/// A living backend as records name it.
#[inline(always)]
fn owner_of(id: BackendId, tables: &impl Tables) -> Option<Owner> {
    let backend = id.known()?;
    let record = tables.backend(backend)?.active();
    (record.alive != 0).then_some(Owner { backend, generation: record.generation })
}

/// What is known of a flow after one more packet.
#[inline(always)]
fn next_state(state: FlowState, flow: &MovingFlow) -> FlowState {
    if flow.protocol != TCP {
        return FlowState::Open;
    }
    if flow.flags & flag::RST != 0 {
        return FlowState::Reset;
    }
    // A SYN that ends what it opens was forged: it lasts no longer than others.
    if flow.flags & flag::FIN != 0 && flow.flags & flag::SYN == 0 {
        return FlowState::Closing;
    }
    match state {
        FlowState::Closing => FlowState::Closing,
        state if flow.flags & flag::SYN != 0 => state,
        // A RST before it was forged, or late.
        _ => FlowState::Open,
    }
}
