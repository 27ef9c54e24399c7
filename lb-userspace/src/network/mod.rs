//! Next hops and interfaces, as the kernel has them: kept current over netlink.
//!
//! In: the destinations that are wanted. Out: for each the way there or the reason why there is
//! none ([`Resolution`]), and this host's [`Interfaces`]. Both are watches: a reader sees the
//! newest state and is woken by a change.
//!
//! The kernel decides: its route look-up, its neighbour table, its ARP and neighbour discovery,
//! which [`NextHops`] makes it do, as packets of an XDP program would never cause it.

mod client_routes;
pub(crate) mod interface;
mod kernel;
mod listing;
mod message;
mod namespace;
mod neighbour;
mod probe;
pub(crate) mod resolution;
mod resolve;
mod watcher;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::layout::ClientRoutes;
use tokio::sync::watch;

pub(crate) use interface::{InterfaceAddress, InterfaceChange, Interfaces, LinkKind};
pub(crate) use kernel::NetworkError;
pub(crate) use namespace::{NamespaceError, Namespaces};
pub(crate) use resolution::Resolution;

use kernel::Kernel;
use probe::Tuning;
use watcher::{Inlets, Outlets, Watcher, replace_if_changed};

/// The handle of the task that resolves next hops. The task ends when it is dropped.
#[derive(Debug)]
pub(crate) struct NextHops {
    wanted: watch::Sender<BTreeSet<IpAddr>>,
    ours: watch::Sender<BTreeSet<String>>,
    telling: watch::Sender<bool>,
    resolutions: watch::Receiver<BTreeMap<IpAddr, Resolution>>,
    interfaces: watch::Receiver<Interfaces>,
    client_routes: watch::Receiver<ClientRoutes>,
    trouble: watch::Receiver<Option<String>>,
}

impl NextHops {
    /// Starts the task, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time.
    pub(crate) fn start() -> Result<Self, NetworkError> {
        Self::start_tuned(Tuning::default())
    }

    fn start_tuned(tuning: Tuning) -> Result<Self, NetworkError> {
        let kernel = Kernel::open(tuning.event_buffer_bytes)?;
        let (wanted, wanted_by_task) = watch::channel(BTreeSet::new());
        let (ours, ours_of_task) = watch::channel(BTreeSet::new());
        let (telling, telling_of_task) = watch::channel(false);
        let (resolutions_out, resolutions) = watch::channel(BTreeMap::new());
        let (interfaces_out, interfaces) = watch::channel(Interfaces::default());
        let (client_routes_out, client_routes) = watch::channel(ClientRoutes::VACANT);
        let (trouble_out, trouble) = watch::channel(None);
        let outlets = Outlets {
            resolutions: resolutions_out,
            interfaces: interfaces_out,
            client_routes: client_routes_out,
            trouble: trouble_out,
        };
        let inlets =
            Inlets { wanted: wanted_by_task, ours: ours_of_task, telling: telling_of_task };
        tokio::spawn(Watcher::new(kernel, tuning, inlets, outlets).run());
        Ok(Self { wanted, ours, telling, resolutions, interfaces, client_routes, trouble })
    }

    /// Sets the destinations that are wanted; those that were and aren't any more are forgotten.
    pub(crate) fn want(&self, destinations: BTreeSet<IpAddr>) {
        replace_if_changed(&self.wanted, destinations);
    }

    /// Sets the interfaces that packets for VIPs come in by.
    pub(crate) fn serve_on(&self, interfaces: BTreeSet<String>) {
        replace_if_changed(&self.ours, interfaces);
    }

    /// Whether the few routes toward clients are wanted.
    pub(crate) fn tell_client_routes(&self, wanted: bool) {
        replace_if_changed(&self.telling, wanted);
    }

    /// The few routes toward clients: what they tell is what the kernel would. Vacant unless they
    /// are wanted, and where they aren't kept current.
    pub(crate) fn client_routes(&self) -> watch::Receiver<ClientRoutes> {
        self.client_routes.clone()
    }

    /// The answers. A destination that was just wanted is missing until the kernel was asked.
    pub(crate) fn resolutions(&self) -> watch::Receiver<BTreeMap<IpAddr, Resolution>> {
        self.resolutions.clone()
    }

    /// This host's interfaces and addresses; empty until the kernel was asked.
    pub(crate) fn interfaces(&self) -> watch::Receiver<Interfaces> {
        self.interfaces.clone()
    }

    /// What keeps the answers from being kept current; `None` when all is well.
    pub(crate) fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.trouble.clone()
    }
}
