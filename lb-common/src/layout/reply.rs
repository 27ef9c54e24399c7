//! How many messages of its own the balancer may still send in this second, per CPU.

use super::Plain;
use crate::tables::Reply;

/// What one CPU sent in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RepliesInSecond {
    second: u32,
    /// By the number of the [`Reply`].
    sent: [u32; 2],
}

impl RepliesInSecond {
    /// Takes one of this second's `budget` messages of a kind; `false` where none is left.
    #[inline(always)]
    pub const fn take(&mut self, reply: Reply, now: u32, budget: u32) -> bool {
        if self.second != now {
            *self = Self { second: now, sent: [0; 2] };
        }
        let sent = &mut self.sent[reply as usize];
        if *sent >= budget {
            return false;
        }
        *sent += 1;
        true
    }
}

// SAFETY: three u32, repr(C).
unsafe impl Plain for RepliesInSecond {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_budget_of_its_own_a_second() {
        let mut replies = RepliesInSecond::default();
        let mut take = |reply, now| replies.take(reply, now, 2);
        assert!(take(Reply::Echo, 1) && take(Reply::Echo, 1) && !take(Reply::Echo, 1));
        assert!(take(Reply::TooBig, 1) && take(Reply::Echo, 2) && take(Reply::Echo, 2));
        assert!(!take(Reply::Echo, 2) && take(Reply::Echo, 0), "clocks of CPUs may differ");
    }
}
