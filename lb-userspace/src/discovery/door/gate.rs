//! How many connections a sender may have, at a time and in a second: pure.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Connections of one sender at a time.
const AT_A_TIME: u32 = 32;
/// Connections of one sender in a second.
const IN_A_SECOND: u32 = 200;
/// Connections of all senders in a second: what a core can do in handshakes of TLS.
const IN_A_SECOND_OF_ALL: u32 = 2000;

/// Who has come. An IPv6 sender is its network of 64 bits, of which it has all addresses.
#[derive(Debug, Default)]
pub(super) struct Gate {
    open: HashMap<IpAddr, u32>,
    /// When the second began that is counted; at most as many senders as there were connections.
    second: Option<Instant>,
    came: HashMap<IpAddr, u32>,
    came_of_all: u32,
}

impl Gate {
    /// Whether one more connection is let in. Each that is must [`Gate::leave`].
    pub(super) fn admit(&mut self, peer: IpAddr, now: Instant) -> bool {
        let peer = sender(peer);
        let over =
            |second: Instant| now.saturating_duration_since(second) >= Duration::from_secs(1);
        if self.second.is_none_or(over) {
            self.second = Some(now);
            self.came.clear();
            self.came_of_all = 0;
        }
        if self.came_of_all >= IN_A_SECOND_OF_ALL {
            return false;
        }
        let came = self.came.entry(peer).or_default();
        let open = self.open.get(&peer).copied().unwrap_or(0);
        if *came >= IN_A_SECOND || open >= AT_A_TIME {
            return false;
        }
        *came += 1;
        self.came_of_all += 1;
        self.open.insert(peer, open + 1);
        true
    }

    /// A connection ended.
    pub(super) fn leave(&mut self, peer: IpAddr) {
        let peer = sender(peer);
        if let Some(open) = self.open.get_mut(&peer) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(&peer);
            }
        }
    }
}

fn sender(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sender_keeps_nobody_else_out() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        let [greedy, other]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        let admitted = (0..1000).filter(|_| gate.admit(greedy, now)).count();
        assert_eq!(admitted, AT_A_TIME as usize);
        assert!(gate.admit(other, now));
        for _ in 0..AT_A_TIME {
            gate.leave(greedy);
        }
        let quick = (0..1000).filter(|_| {
            gate.admit(greedy, now) && {
                gate.leave(greedy);
                true
            }
        });
        assert_eq!(quick.count() as u32, IN_A_SECOND - AT_A_TIME);
        assert!(gate.admit(greedy, now + Duration::from_secs(1)));
    }

    #[test]
    fn all_together_have_a_bound_and_are_forgotten() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        let many = (0..10_000_u32).map(|number| IpAddr::V6((u128::from(number) << 64).into()));
        let admitted: Vec<_> = many.filter(|peer| gate.admit(*peer, now)).collect();
        assert_eq!(admitted.len() as u32, IN_A_SECOND_OF_ALL);
        admitted.into_iter().for_each(|peer| gate.leave(peer));
        assert!(gate.open.is_empty());
        let neighbours = (0..1000).map(|last| IpAddr::V6((0xfd00_u128 << 112 | last).into()));
        let admitted = neighbours.filter(|p| gate.admit(*p, now + Duration::from_secs(1))).count();
        assert_eq!(admitted as u32, AT_A_TIME, "they are one sender");
    }
}
