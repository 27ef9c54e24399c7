//! What happens to a service's backends, drawn from a seed.

use lb_common::ring::{FULL, Member, member_key};

use crate::random::Random;

/// The backends of a service before and after something happened, in the same order.
///
/// A backend that isn't configured is a member of weight 0, which changes nobody's slots.
pub(crate) struct Change {
    pub(crate) before: Vec<Member>,
    pub(crate) after: Vec<Member>,
}

/// What happens; shares are of the configured backends, at least one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Fail { percent: usize },
    Recover { percent: usize },
    FailInstead { percent: usize },
    ReplaceHalf { percent: usize },
    FailOneMore { percent: usize },
    FailMixedWeights { percent: usize },
    Drift,
    AddOne,
    RemoveOne,
    Add { percent: usize },
}

impl Event {
    pub(crate) const ALL: [Self; 13] = [
        Self::Fail { percent: 1 },
        Self::Fail { percent: 10 },
        Self::Recover { percent: 1 },
        Self::Recover { percent: 10 },
        Self::FailMixedWeights { percent: 10 },
        Self::FailInstead { percent: 1 },
        Self::FailInstead { percent: 10 },
        Self::ReplaceHalf { percent: 10 },
        Self::FailOneMore { percent: 10 },
        Self::Drift,
        Self::AddOne,
        Self::RemoveOne,
        Self::Add { percent: 10 },
    ];

    pub(crate) fn name(self) -> String {
        match self {
            Self::Fail { percent } => format!("{percent} % fail"),
            Self::Recover { percent } => format!("{percent} % recover"),
            Self::FailInstead { percent } => {
                format!("{percent} % down, another {percent} % instead")
            }
            Self::ReplaceHalf { percent } => format!("{percent} % down, half of them replaced"),
            Self::FailOneMore { percent } => format!("{percent} % down, one more fails"),
            Self::FailMixedWeights { percent } => format!("weights 1:2:4, {percent} % fail"),
            Self::Drift => "live weights drift, one step".into(),
            Self::AddOne => "one added".into(),
            Self::RemoveOne => "one removed".into(),
            Self::Add { percent } => format!("{percent} % added"),
        }
    }

    /// `draws` changes of a service of `backends` backends. Those of a drift follow one another,
    /// all others begin anew.
    pub(crate) fn changes(self, backends: usize, draws: usize) -> Vec<Change> {
        let place = Self::ALL.iter().position(|&event| event == self);
        let place = place.expect("every event is in ALL");
        let mut random = Random((backends << 8 | place) as u64);
        if self == Self::Drift {
            return drift(backends, draws, &mut random);
        }
        (0..draws).map(|_| self.change(backends, &mut random)).collect()
    }

    fn change(self, backends: usize, random: &mut Random) -> Change {
        let full = service(backends);
        let down = |failed: &[usize]| with(&full, failed, |member| member.live = 0);
        match self {
            Self::Fail { percent } => {
                let after = down(&random.choose(share(backends, percent), backends));
                Change { before: full, after }
            }
            Self::Recover { percent } => {
                let before = down(&random.choose(share(backends, percent), backends));
                Change { before, after: full }
            }
            Self::FailInstead { percent } => {
                let mut draw = || down(&random.choose(share(backends, percent), backends));
                let before = draw();
                let after = loop {
                    let after = draw();
                    if after != before {
                        break after;
                    }
                };
                Change { before, after }
            }
            Self::ReplaceHalf { percent } => {
                let count = share(backends, percent);
                let chosen = random.choose(count + count.div_ceil(2), backends);
                let after = down(&chosen[chosen.len() - count..]);
                Change { before: down(&chosen[..count]), after }
            }
            Self::FailOneMore { percent } => {
                let chosen = random.choose(share(backends, percent) + 1, backends);
                Change { before: down(&chosen[1..]), after: down(&chosen) }
            }
            Self::FailMixedWeights { percent } => {
                let mut before = full;
                for (index, member) in before.iter_mut().enumerate() {
                    member.weight <<= index % 3;
                }
                let failed = random.choose(share(backends, percent), backends);
                let after = with(&before, &failed, |member| member.live = 0);
                Change { before, after }
            }
            Self::AddOne => add(backends, 1, random),
            Self::Add { percent } => add(backends, share(backends, percent), random),
            Self::RemoveOne => {
                let after = with(&full, &random.choose(1, backends), |member| member.weight = 0);
                Change { before: full, after }
            }
            Self::Drift => unreachable!("its changes follow one another"),
        }
    }
}

/// Live weights begin anywhere from 50 % to 100 %; in each step each one falls by 5 %, stays or
/// rises by 5 %, as likely, within those bounds.
fn drift(backends: usize, steps: usize, random: &mut Random) -> Vec<Change> {
    const STEP: u16 = FULL / 20;
    let mut now = service(backends);
    for member in &mut now {
        member.live = FULL / 2 + STEP * random.below(11) as u16;
    }
    let mut step = || {
        let before = now.clone();
        for member in &mut now {
            let moved = member.live + STEP * random.below(3) as u16 - STEP;
            member.live = moved.clamp(FULL / 2, FULL);
        }
        Change { before, after: now.clone() }
    };
    (0..steps).map(|_| step()).collect()
}

fn add(backends: usize, count: usize, random: &mut Random) -> Change {
    let after = service(backends + count);
    let added = random.choose(count, after.len());
    Change { before: with(&after, &added, |member| member.weight = 0), after }
}

/// Backends of equal weight, all up: 10.0.0.1 and on.
fn service(backends: usize) -> Vec<Member> {
    let member = |number: u32| {
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0001 + number).to_ipv6_mapped();
        Member { key: member_key(address.octets(), 0), weight: 100, live: FULL }
    };
    (0..backends as u32).map(member).collect()
}

fn with(members: &[Member], chosen: &[usize], change: impl Fn(&mut Member)) -> Vec<Member> {
    let mut members = members.to_vec();
    chosen.iter().for_each(|&index| change(&mut members[index]));
    members
}

fn share(backends: usize, percent: usize) -> usize {
    (backends * percent / 100).max(1)
}
