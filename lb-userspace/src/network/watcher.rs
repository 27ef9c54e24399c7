//! The task that keeps the answers current.
//!
//! In: the wanted destinations, and the kernel's events. Out: the answers and the interfaces.
//! Bursts of events become one pass: it starts [`Tuning::coalesce`] after the first, and while
//! passes take long, later. What is wanted anew is answered at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use lb_common::layout::ClientRoutes;
use netlink_packet_route::AddressFamily;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    client_routes::{Told, are_default, choose, records},
    interface::Interfaces,
    kernel::{Kernel, NetworkError, Probed},
    message::Event,
    neighbour::{NeighbourKey, Neighbours},
    probe::{Prober, Tuning},
    resolution::Resolution,
    resolve::{Asked, RouteAnswer, neighbour_key, resolve},
};

/// Pause before the sockets are opened again, or a failed question is asked again.
const RECOVERY: Duration = Duration::from_secs(1);

/// Events taken in before the task looks up.
const BURST: usize = 1024;

/// What the task is told.
pub(super) struct Inlets {
    pub(super) wanted: watch::Receiver<BTreeSet<IpAddr>>,
    pub(super) ours: watch::Receiver<BTreeSet<String>>,
    pub(super) telling: watch::Receiver<bool>,
}

/// Where the task's results go.
pub(super) struct Outlets {
    pub(super) resolutions: watch::Sender<BTreeMap<IpAddr, Resolution>>,
    pub(super) interfaces: watch::Sender<Interfaces>,
    pub(super) client_routes: watch::Sender<ClientRoutes>,
    pub(super) trouble: watch::Sender<Option<String>>,
}

/// A wanted destination.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Destination {
    answer: RouteAnswer,
    last_ifindex: Option<u32>,
}

impl Destination {
    /// What is known after one more answer: a question that failed takes back nothing.
    fn after(before: Option<Self>, answer: RouteAnswer) -> Self {
        let last_ifindex = before.as_ref().and_then(|before| before.last_ifindex);
        match (answer, before) {
            (RouteAnswer::Failed(_), Some(before)) => before,
            (RouteAnswer::Via(way), _) => {
                Self { last_ifindex: Some(way.ifindex), answer: RouteAnswer::Via(way) }
            }
            (answer, _) => Self { answer, last_ifindex },
        }
    }
}

/// What the next pass has to do; everything includes what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    /// Compute the answers.
    Compute,
    /// Ask for the routes again.
    Routes,
    /// Read interfaces and addresses.
    Interfaces,
    /// Read everything.
    Everything,
}

pub(super) struct Watcher {
    kernel: Kernel,
    tuning: Tuning,
    wanted: watch::Receiver<BTreeSet<IpAddr>>,
    ours: watch::Receiver<BTreeSet<String>>,
    telling: watch::Receiver<bool>,
    outlets: Outlets,
    interfaces: Interfaces,
    neighbours: Neighbours,
    destinations: BTreeMap<IpAddr, Destination>,
    /// Toward clients, of IPv4 and IPv6.
    told: [Vec<Told>; 2],
    prober: Prober,
    refused: BTreeMap<NeighbourKey, i32>,
    work: Option<(Work, Instant)>,
    next_resync: Instant,
    /// No pass on events begins before: passes take at most a fifth of the time.
    rest_until: Instant,
}

impl Watcher {
    pub(super) fn new(
        kernel: Kernel,
        tuning: Tuning,
        Inlets { wanted, ours, telling }: Inlets,
        outlets: Outlets,
    ) -> Self {
        let now = Instant::now();
        Self {
            kernel,
            tuning,
            wanted,
            ours,
            telling,
            outlets,
            interfaces: Interfaces::default(),
            neighbours: Neighbours::default(),
            destinations: BTreeMap::new(),
            told: Default::default(),
            prober: Prober::new(tuning),
            refused: BTreeMap::new(),
            work: Some((Work::Everything, now)),
            next_resync: now,
            rest_until: now,
        }
    }

    /// Runs until nobody can want anything any more. After an error the answers stay, and the
    /// sockets are opened anew.
    pub(super) async fn run(mut self) {
        while let Err(error) = self.watch().await {
            self.outlets.client_routes.send_replace(ClientRoutes::VACANT);
            self.outlets.trouble.send_replace(Some(error.to_string()));
            loop {
                tokio::select! {
                    () = sleep(RECOVERY) => {}
                    () = closed(&mut self.wanted) => return,
                }
                match Kernel::open(self.tuning.event_buffer_bytes) {
                    Ok(kernel) => {
                        self.kernel = kernel;
                        break;
                    }
                    Err(error) => {
                        self.outlets.trouble.send_replace(Some(error.to_string()));
                    }
                }
            }
            self.work = Some((Work::Everything, Instant::now()));
        }
    }

    async fn watch(&mut self) -> Result<(), NetworkError> {
        self.want().await;
        loop {
            self.pass().await?;
            let wake = self.wake();
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.want().await;
                }
                Ok(()) = self.ours.changed() => self.add_work(Work::Compute, Instant::now()),
                Ok(()) = self.telling.changed() => self.add_work(Work::Routes, Instant::now()),
                event = self.kernel.event() => {
                    self.absorb(event?);
                    for _ in 0..BURST {
                        let Some(event) = self.kernel.waiting_event() else { break };
                        self.absorb(event?);
                    }
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Asks for what is wanted anew and forgets what isn't any more.
    async fn want(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        self.destinations.retain(|destination, _| wanted.contains(destination));
        let new: Vec<_> = wanted
            .into_iter()
            .filter(|destination| !self.destinations.contains_key(destination))
            .collect();
        self.ask(&new).await;
        self.add_work(Work::Compute, Instant::now());
    }

    fn absorb(&mut self, event: Event) {
        let work = match event {
            Event::Neighbour(update) => {
                let changed = self.neighbours.apply(update);
                (changed && self.prober.watches(&update.key)).then_some(Work::Compute)
            }
            Event::Address(ifindex, address, present) => {
                self.interfaces.set_address(ifindex, address, present);
                Some(Work::Routes)
            }
            Event::Link => Some(Work::Interfaces),
            Event::LinkGone(ifindex) => {
                self.interfaces.remove(ifindex);
                self.neighbours.forget_interface(ifindex);
                Some(Work::Interfaces)
            }
            Event::Routes => Some(Work::Routes),
            Event::Overrun => Some(Work::Everything),
        };
        if let Some(work) = work {
            self.add_work(work, (Instant::now() + self.tuning.coalesce).max(self.rest_until));
        }
    }

    fn add_work(&mut self, work: Work, due: Instant) {
        self.work = Some(match self.work {
            Some((before, due_before)) => (before.max(work), due_before.min(due)),
            None => (work, due),
        });
    }

    fn wake(&self) -> Instant {
        let due = self.work.map(|(_, due)| due);
        [due, self.prober.next()].into_iter().flatten().fold(self.next_resync, Instant::min)
    }

    /// Does the work that is due.
    async fn pass(&mut self) -> Result<(), NetworkError> {
        let begin = Instant::now();
        if begin >= self.next_resync {
            self.add_work(Work::Everything, begin);
        }
        if let Some((work, due)) = self.work
            && due <= begin
        {
            self.work = None;
            if work >= Work::Interfaces {
                self.read_interfaces().await?;
            }
            if work == Work::Everything {
                self.read_neighbours().await?;
                self.next_resync = begin + self.tuning.resync;
            }
            if work >= Work::Routes {
                let all: Vec<_> = self.destinations.keys().copied().collect();
                self.ask(&all).await;
                self.list_routes().await;
            }
            self.compute();
            if work >= Work::Routes {
                self.rest_until = Instant::now() + begin.elapsed() * 4;
            }
            self.outlets.trouble.send_if_modified(|trouble| trouble.take().is_some());
        }
        self.probe().await;
        Ok(())
    }

    async fn read_interfaces(&mut self) -> Result<(), NetworkError> {
        let dump = self.kernel.interfaces().await?;
        let mut interfaces = Interfaces::default();
        for link in dump.links {
            interfaces.insert(link);
        }
        for (ifindex, address) in dump.addresses {
            interfaces.set_address(ifindex, address, true);
        }
        self.interfaces = interfaces;
        Ok(())
    }

    async fn read_neighbours(&mut self) -> Result<(), NetworkError> {
        let dump = self.kernel.neighbours().await?;
        self.neighbours.replace(&dump);
        let prober = &self.prober;
        self.neighbours.forget_unwatched(|key| prober.watches(key));
        Ok(())
    }

    /// Reads which routes toward clients there are to tell. None, where they can't be read.
    async fn list_routes(&mut self) {
        self.told = Default::default();
        if !*self.telling.borrow_and_update() {
            return;
        }
        let families = [AddressFamily::Inet, AddressFamily::Inet6];
        for (told, family) in self.told.iter_mut().zip(families) {
            match Kernel::list(family).await {
                Ok(listing) if are_default(&listing.rules) => *told = choose(&listing.routes),
                Ok(_) => {}
                Err(error) => tracing::debug!("no routes toward clients are told: {error}"),
            }
        }
    }

    /// Asks for the routes to `destinations` and keeps the answers.
    async fn ask(&mut self, destinations: &[IpAddr]) {
        let mut failed = false;
        for (destination, answer) in self.kernel.routes(destinations).await {
            failed |= matches!(answer, RouteAnswer::Failed(_));
            let before = self.destinations.remove(&destination);
            self.destinations.insert(destination, Destination::after(before, answer));
        }
        if failed {
            self.next_resync = self.next_resync.min(Instant::now() + RECOVERY);
        }
    }

    /// Computes every answer, tells those that changed, and notes whom to ask for.
    fn compute(&mut self) {
        let ours = self.ours.borrow_and_update().clone();
        let mut watched = BTreeMap::new();
        let mut answer = |asked: &Asked<'_>| {
            if let Some(key) = neighbour_key(asked, &self.interfaces) {
                watched.insert(key, self.neighbours.get(&key));
            }
            let refused = |key: &NeighbourKey| self.refused.get(key).copied();
            resolve(asked, &self.interfaces, &ours, &self.neighbours, refused)
        };
        let mut resolutions = BTreeMap::new();
        for (destination, found) in &self.destinations {
            let Destination { answer: route, last_ifindex } = found;
            let last_ifindex = *last_ifindex;
            let asked = Asked { destination: *destination, answer: route, last_ifindex };
            resolutions.insert(*destination, answer(&asked));
        }
        let client_routes = records(&self.told, answer);
        self.refused.retain(|key, _| watched.contains_key(key));
        self.prober.observe(Instant::now(), &watched);
        replace_if_changed(&self.outlets.client_routes, client_routes);
        replace_if_changed(&self.outlets.resolutions, resolutions);
        replace_if_changed(&self.outlets.interfaces, self.interfaces.clone());
    }

    /// Makes the kernel ask for the neighbours that are due.
    async fn probe(&mut self) {
        let due = self.prober.take_due(Instant::now());
        let mut changed = false;
        for Probed { key, found, refused } in self.kernel.probe(&due).await {
            changed |= found.is_some_and(|update| self.neighbours.apply(update));
            let before = match refused {
                Some(errno) => self.refused.insert(key, errno),
                None => self.refused.remove(&key),
            };
            changed |= before != refused;
        }
        if changed {
            self.compute();
        }
    }
}

/// Sends a value, unless it is what was sent last.
pub(super) fn replace_if_changed<T: PartialEq>(outlet: &watch::Sender<T>, new: T) {
    outlet.send_if_modified(|old| {
        let changed = *old != new;
        if changed {
            *old = new;
        }
        changed
    });
}

/// Waits until nobody can want anything any more.
async fn closed(wanted: &mut watch::Receiver<BTreeSet<IpAddr>>) {
    while wanted.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::{super::resolve::Way, *};

    /// One question among thousands fails: the backend isn't lost by that.
    #[test]
    fn a_question_that_fails_takes_back_no_way() {
        let way =
            |ifindex| RouteAnswer::Via(Way { ifindex, gateway: None, source: None, mtu: None });
        let failed = || RouteAnswer::Failed("no answer".into());
        let good = Destination::after(None, way(2));
        assert_eq!(good, Destination { answer: way(2), last_ifindex: Some(2) });
        assert_eq!(Destination::after(Some(good.clone()), failed()), good);
        assert_eq!(Destination::after(Some(good.clone()), way(3)).last_ifindex, Some(3));
        let local = Destination::after(Some(good), RouteAnswer::Local);
        assert_eq!(local, Destination { answer: RouteAnswer::Local, last_ifindex: Some(2) });
        assert_eq!(Destination::after(Some(local.clone()), failed()), local);
        assert_eq!(Destination::after(None, failed()).answer, failed());
    }
}
