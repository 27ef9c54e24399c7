//! The way of probes through VIPs.
//!
//! In: the backends that are asked through a VIP, and how frames reach each ([`Wanted`]). Out: a
//! [`Target`] for each, which opens sockets: what they send goes to the VIP on that one backend,
//! in the frames that a client's packets go in.
//!
//! ```text
//! socket, in a namespace of the agent's own, bound to a source port that names the target
//!   -> pair of interfaces -> xlb_probe_out: the backend's headers -> the way to the backend
//! the backend's answer, from the VIP -> xlb_probe_back -> the namespace
//! ```

mod namespace;
mod ports;
mod target;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use lb_common::layout::{BackendRecord, ProbeTarget};
use tokio::sync::watch;

use crate::{
    dataplane::{self, Hook, ProbePrograms},
    health::CheckId,
    plan::address_bytes,
};
use namespace::{HostEnd, Namespace};
use ports::Ports;
pub use target::{Port, Target};
use target::{Sockets, State};

/// Why there is no way for probes through VIPs.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// The process has no right to a network namespace of its own.
    #[error(
        "a network namespace for the probes' sockets takes CAP_SYS_ADMIN at the start ({0}): run \
         xlb as root or with that capability, or set via = \"address\""
    )]
    NotPermitted(io::Error),
    /// The kernel said no.
    #[error("can't {doing} for probes through VIPs ({source}): mend it, or set via = \"address\"")]
    Kernel {
        /// What was tried.
        doing: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The programs can't be loaded or attached.
    #[error("the programs of probes through VIPs: {0}; or set via = \"address\"")]
    Programs(#[from] dataplane::Error),
}

impl PathError {
    fn kernel(doing: &str, source: io::Error) -> Self {
        Self::Kernel { doing: doing.to_owned(), source }
    }

    fn unshare(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted(source),
            _ => Self::kernel("make a network namespace", source),
        }
    }
}

/// A backend that is asked through a VIP.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The VIP, and the port there.
    pub vip: SocketAddr,
    /// A probe ends by then.
    pub timeout: Duration,
    /// What a person should look at where nothing answers.
    pub hint: String,
    /// How frames reach it, or why they don't.
    pub way: Way,
}

/// How a probe's frames reach a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// With the headers of this record, from this address.
    Known {
        /// The backend's record, with the interface's own number.
        record: Box<BackendRecord>,
        /// An address of this host, of the VIP's family.
        source: IpAddr,
    },
    /// It isn't known yet, or not any more, and why.
    Missing(String),
    /// This host can't send such probes, and why.
    Impossible(String),
}

/// The way of probes. It is gone when it is dropped, but for probes that are under way.
pub struct ProbePath {
    host_end: HostEnd,
    namespace: Namespace,
    programs: ProbePrograms,
    sockets: Arc<Sockets>,
    targets: BTreeMap<CheckId, Entry>,
    addresses: BTreeSet<IpAddr>,
    last_number: u32,
    /// Why answers are not looked for on an interface, by name.
    deaf: BTreeMap<String, String>,
}

struct Entry {
    target: Arc<Target>,
    way: Way,
    state: watch::Sender<State>,
}

impl ProbePath {
    /// Makes the way, beside the network namespace of the calling thread. `name` tells the agents
    /// of a host apart.
    ///
    /// # Errors
    /// If the kernel refuses; then nothing is left.
    pub fn open(object: &[u8], name: &[u8]) -> Result<Self, PathError> {
        Self::open_with(object, name, Hook::best())
    }

    fn open_with(object: &[u8], name: &[u8], hook: Hook) -> Result<Self, PathError> {
        let (namespace, host_end) = Namespace::open()?;
        let end = (host_end.name.as_str(), host_end.ifindex);
        let mut programs = ProbePrograms::open(object, hook, name, end)?;
        let map = programs.take_ports().expect("they were not taken before");
        let ports = Mutex::new((Ports::new(ports::hosts_own(), host_end.number), map));
        let sockets = Arc::new(Sockets { namespace: namespace.clone(), ports });
        Ok(Self {
            host_end,
            namespace,
            programs,
            sockets,
            targets: BTreeMap::new(),
            addresses: BTreeSet::new(),
            last_number: 0,
            deaf: BTreeMap::new(),
        })
    }

    /// The number of the interface that the host has of the pair.
    pub fn host_ifindex(&self) -> u32 {
        self.host_end.ifindex
    }

    /// Makes exactly these the targets, and looks for answers on these interfaces, told by name
    /// and number.
    pub fn set(&mut self, wanted: BTreeMap<CheckId, Wanted>, interfaces: &BTreeMap<String, u32>) {
        let failed = self.programs.answer_on(interfaces);
        self.deaf = failed.into_iter().map(|(name, error)| (name, error.to_string())).collect();
        let unaddressed = self.set_addresses(&wanted);
        let gone: Vec<_> =
            self.targets.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
        for id in gone {
            self.forget(id);
        }
        for (id, mut wanted) in wanted {
            if let Way::Known { source, .. } = &wanted.way
                && let Some(why) = unaddressed.get(source)
            {
                wanted.way = Way::Impossible(why.clone());
            }
            self.set_target(id, wanted);
        }
    }

    /// The target of a check; `None` where it doesn't go through a VIP.
    pub fn target(&self, id: CheckId) -> Option<Arc<Target>> {
        self.targets.get(&id).map(|entry| Arc::clone(&entry.target))
    }

    /// What the operator should know.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.deaf.iter().map(|(interface, why)| {
            format!("answers to probes through VIPs are not seen on {interface}: {why}")
        })
    }

    /// Makes the addresses that probes come from the namespace's. Gives why not, by address.
    fn set_addresses(&mut self, wanted: &BTreeMap<CheckId, Wanted>) -> BTreeMap<IpAddr, String> {
        let sources: BTreeSet<IpAddr> = wanted
            .values()
            .filter_map(|wanted| match &wanted.way {
                Way::Known { source, .. } => Some(*source),
                _ => None,
            })
            .collect();
        if sources == self.addresses {
            return BTreeMap::new();
        }
        match self.namespace.set_addresses(sources.clone()) {
            Ok(()) => {
                self.addresses = sources;
                BTreeMap::new()
            }
            Err(error) => {
                // Whatever of it was done: try all of it again.
                let before = std::mem::take(&mut self.addresses);
                let new = sources.difference(&before);
                let why = |address: &IpAddr| format!("probes can't come from {address}: {error}");
                new.map(|address| (*address, why(address))).collect()
            }
        }
    }

    fn set_target(&mut self, id: CheckId, wanted: Wanted) {
        let same = |entry: &Entry| {
            entry.target.vip() == wanted.vip
                && entry.target.timeout() == wanted.timeout
                && entry.target.hint() == wanted.hint
        };
        match self.targets.get(&id) {
            Some(entry) if same(entry) && entry.way == wanted.way => return,
            Some(entry) if same(entry) => {}
            _ => {
                self.forget(id);
                self.last_number += 1;
                let (state, receiver) =
                    watch::channel(State::Missing("it is being put in force".into()));
                let target =
                    Target::new(self.last_number, &wanted, receiver, Arc::clone(&self.sockets));
                let way = Way::Missing(String::new());
                self.targets.insert(id, Entry { target: Arc::new(target), way, state });
            }
        }
        let Some(entry) = self.targets.get_mut(&id) else { return };
        let number = entry.target.number();
        let (target, state) = match &wanted.way {
            Way::Known { record, source } => {
                let (from, vip) = (address_bytes(*source), address_bytes(wanted.vip.ip()));
                let target = ProbeTarget::new(record, from, vip, wanted.vip.port());
                (Some(target), State::Ready(*source))
            }
            Way::Missing(why) => (None, State::Missing(why.clone())),
            Way::Impossible(why) => (None, State::Impossible(why.clone())),
        };
        match self.programs.set_target(number, target.as_ref()) {
            Ok(()) => {
                entry.way = wanted.way;
                entry.state.send_replace(state);
            }
            // The next call tries it again.
            Err(error) => {
                entry.way = Way::Missing(String::new());
                entry.state.send_replace(State::Impossible(error.to_string()));
            }
        }
    }

    fn forget(&mut self, id: CheckId) {
        let Some(entry) = self.targets.remove(&id) else { return };
        if let Err(error) = self.programs.set_target(entry.target.number(), None) {
            tracing::error!("{error}");
        }
    }
}

impl std::fmt::Debug for ProbePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProbePath").field("host_end", &self.host_end).finish_non_exhaustive()
    }
}
