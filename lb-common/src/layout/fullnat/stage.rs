//! How far flows are, and how long they may be quiet.

use crate::{flow::flag, network::TCP};

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
    pub(super) const fn from_bits(bits: u32) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::UDP;

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
}
