//! A source in the DNS: it is asked, its answer holds for its TTL, and it is asked again.
//!
//! An answer is all or nothing: where one of several questions fails, nothing is told but the
//! failure. The targets of SRV records are an exception: one that can't be resolved keeps the
//! addresses that it last had, so that it doesn't keep the others from changing.

mod answer;
mod query;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, time::Duration};

use tokio::time::{sleep, timeout};

use super::{Answer, Teller};
use crate::{
    config::{DnsRecord, DnsSource},
    model::Forward,
    state::Found,
};
use query::Resolver;

/// How long one look at all records of a source may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest time from a failure to the next question; the first wait is `min_ttl`, each further one
/// twice as long.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Address families that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    /// Those that are asked for and that the forward mode carries.
    pub(super) fn of(source: &DnsSource, vip: IpAddr, forward: Forward) -> Self {
        let carried = |v4: bool| forward.joins_families() || vip.is_ipv4() == v4;
        Self {
            v4: carried(true) && source.record != DnsRecord::Aaaa,
            v6: carried(false) && source.record != DnsRecord::A,
        }
    }
}

/// What was found, and for how long it holds.
#[derive(Debug)]
struct Fresh {
    answer: Answer,
    ttl: Duration,
}

/// Asks until it is aborted or nobody listens any more.
pub(super) async fn run(source: DnsSource, families: Families, last: Vec<Found>, teller: Teller) {
    let mut last = last;
    let mut failures = 0;
    loop {
        let asked = timeout(PATIENCE, ask(&source, families, &last)).await;
        let asked = asked.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
        let (result, wait) = match asked {
            Ok(Fresh { answer, ttl }) => {
                failures = 0;
                if !answer.backends.is_empty() {
                    last.clone_from(&answer.backends);
                }
                (Ok(answer), ttl.clamp(source.min_ttl, source.max_ttl))
            }
            Err(why) => {
                failures += 1;
                (Err(why), backoff(&source, failures))
            }
        };
        let wait = early(wait);
        if !teller.tell(result, Some(wait)).await {
            return;
        }
        sleep(wait).await;
    }
}

async fn ask(source: &DnsSource, families: Families, last: &[Found]) -> Result<Fresh, String> {
    let resolver = Resolver::new(source.server)?;
    match source.record {
        DnsRecord::Srv => answer::srv(&resolver, source, families, last).await,
        _ => answer::addresses(&resolver, source, families).await,
    }
}

/// From so many failures in a row to the next question.
fn backoff(source: &DnsSource, failures: u32) -> Duration {
    let doubled = source.min_ttl.saturating_mul(1 << (failures - 1).min(16));
    doubled.min(BACKOFF_MAX.max(source.min_ttl)).min(source.max_ttl)
}

/// Up to a tenth sooner, so that the balancers of a fleet don't ask all at once, and none later
/// than it should.
fn early(wait: Duration) -> Duration {
    wait.mul_f64(0.9 + 0.1 * fastrand::f64())
}
