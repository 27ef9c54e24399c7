//! The registration at one agent, from the first to the last request.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    News, RENEWALS,
    connection::{Agent, Failure},
};
use crate::api::{Leaving, Registration};

/// Longest time from a request that wasn't answered to the next.
const AGAIN: Duration = Duration::from_secs(1);
/// How long an agent may be away while a backend leaves, for a restart or an upgrade.
const SILENCE: Duration = Duration::from_secs(30);
/// From one look at how far the drain is to the next.
const LOOK: Duration = Duration::from_millis(500);

/// What shall be registered.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) service: String,
    /// `None` is the address that the agent sees.
    pub(super) address: Option<IpAddr>,
    /// `None` is the service's default.
    pub(super) weight: Option<u16>,
    pub(super) ttl: Duration,
    /// How long open flows have to end; `None` is as long as it takes.
    pub(super) drain_timeout: Option<Duration>,
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Nothing is left there.
    Left,
    /// Flows may be open, or the lease may go on.
    Open,
}

/// Keeps it until `stop`, then leaves.
pub(super) async fn keep(
    agent: Agent,
    wish: Arc<Wish>,
    mut stop: watch::Receiver<bool>,
    json: bool,
) -> Ended {
    let renewal = wish.ttl / RENEWALS;
    // A request that hangs shall leave time for another one.
    let patience = renewal.clamp(Duration::from_millis(300), Duration::from_secs(5));
    let say = |state, address: Option<String>, detail: String| {
        News { agent: agent.url(), service: &wish.service, address, state, detail }.say(json);
    };
    let (mut said, mut address) = (None, None);
    // A request without an answer may have been taken.
    let mut taken = false;
    loop {
        let asked = tokio::select! {
            asked = timeout(patience, agent.register(&wish)) => asked,
            // A request that was sent meanwhile may yet arrive: leaving comes after it.
            _ = stop.wait_for(|stop| *stop) => {
                taken = true;
                break;
            }
        };
        let (state, detail, wait) = match asked.unwrap_or(Err(Failure::TimedOut(patience))) {
            Ok(registration) => {
                taken = true;
                address = Some(registration.address.clone());
                ("registered", told(&registration), renewal.mul_f64(0.9 + 0.1 * fastrand::f64()))
            }
            Err(failure @ Failure::Refused(_)) => {
                let state = if taken { "lost" } else { "refused" };
                let again = format!("{failure}; it is tried again every {renewal:?}");
                (state, again, renewal)
            }
            Err(failure) => {
                taken |= !matches!(failure, Failure::Unreachable(_));
                let state = if address.is_some() { "lost" } else { "refused" };
                (state, failure.to_string(), renewal.min(AGAIN))
            }
        };
        if said.as_ref() != Some(&(state, detail.clone())) {
            say(state, address.clone(), detail.clone());
            said = Some((state, detail));
        }
        tokio::select! {
            () = sleep(wait) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    if !taken {
        say("left", address, "it was never registered".to_owned());
        return Ended::Left;
    }
    leave(&agent, &wish, patience, address, say).await
}

fn told(registration: &Registration) -> String {
    let Registration { weight, removed, draining, .. } = registration;
    match (removed, draining) {
        (true, _) => "an operator has removed it: it takes no part".to_owned(),
        (_, true) => "an operator drains it: it takes no new flows".to_owned(),
        _ => format!("weight {weight}"),
    }
}

async fn leave(
    agent: &Agent,
    wish: &Wish,
    patience: Duration,
    address: Option<String>,
    say: impl Fn(&'static str, Option<String>, String),
) -> Ended {
    let began = Instant::now();
    // An agent that starts anew lets leases last for a whole TTL again.
    let silent = (RENEWALS * wish.ttl).max(SILENCE);
    let mut silence = began + silent;
    let mut said = false;
    loop {
        let asked = timeout(patience, agent.leave(wish)).await;
        let flows = match asked.unwrap_or(Err(Failure::TimedOut(patience))) {
            Ok(Leaving { drained: true, .. }) | Err(Failure::Unknown) => {
                say("left", address, String::new());
                return Ended::Left;
            }
            Ok(Leaving { kept: true, .. }) => {
                let why = "the service has no other backend, so new flows still come";
                say("kept", address, why.to_owned());
                return Ended::Open;
            }
            Ok(Leaving { flows, .. }) => {
                silence = Instant::now() + silent;
                Ok(flows)
            }
            Err(failure) => Err(failure),
        };
        let deadline = wish.drain_timeout.map(|timeout| began + timeout);
        let now = Instant::now();
        let over = deadline.is_some_and(|deadline| now >= deadline);
        // What is refused now will be refused again.
        let lost = match &flows {
            Ok(_) => false,
            Err(Failure::Refused(_)) => true,
            Err(_) => deadline.is_none() && now >= silence,
        };
        if over || lost {
            let detail = match flows {
                Ok(flows) => format!(
                    "{flows} flows of it are known after {:?}, and quiet ones may be left: none is \
                     over before it was quiet for the service's tcp_idle (15 minutes unless set); \
                     a longer --drain-timeout waits for that",
                    began.elapsed()
                ),
                Err(failure) => format!("{failure}; its lease ends within {:?}", wish.ttl),
            };
            say("undrained", address, detail);
            return Ended::Open;
        }
        if !said && flows.is_ok() {
            let told = "it takes no new flows; a second signal ends this at once";
            say("draining", address.clone(), told.to_owned());
            said = true;
        }
        let left = deadline.map_or(LOOK, |deadline| deadline.saturating_duration_since(now));
        sleep(LOOK.min(left)).await;
    }
}
