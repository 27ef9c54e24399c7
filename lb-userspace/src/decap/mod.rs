//! `xlb decap`: takes off, on a backend, what balancers put in front of packets.
//!
//! In come this host's interfaces, kept current, and the networks that balancers send from; out
//! comes the program on one interface that hands inner packets to the local stack, or sends them
//! on to another backend that may have their connection. It stays in the foreground until a signal
//! ends it.

mod endpoints;
mod namespaces;
mod report;
mod second_chance;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use lb_common::layout::NAMESPACES;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use crate::{
    cli::{Cidr, DONE, DecapArgs},
    dataplane::{Attached, Decapsulator, Error},
    network::{Interfaces, LinkKind, NetworkError, NextHops, Resolution},
    objects,
};
use endpoints::{endpoints, senders};
use namespaces::Namespaces;
use second_chance::SecondChance;

/// How long the kernel may take to tell of the interfaces.
const SETTLING: Duration = Duration::from_secs(5);
/// From one log line about foreign packets to the next, and from one look for addresses that
/// nobody names any more.
const MINUTE: Duration = Duration::from_secs(60);
/// From one try to the next, after the kernel refused something; and from one look for network
/// namespaces to the next.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Why decapsulation can't start, or can't be taken out again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecapError {
    /// No netlink.
    #[error("can't follow this host's interfaces: {0}")]
    Network(#[from] NetworkError),
    /// Netlink doesn't answer.
    #[error("the kernel didn't tell this host's interfaces within {seconds} s: {trouble}", seconds = SETTLING.as_secs())]
    NoInterfaces {
        /// What netlink said.
        trouble: String,
    },
    /// The loopback interface.
    #[error(
        "{0} is the loopback interface, where no balancer's packets arrive; name the interface that they come in by (ip route get BALANCER)"
    )]
    Loopback(String),
    /// Frames without an Ethernet header.
    #[error(
        "{0} has no Ethernet frames (a tunnel, PPP or the like); name the interface below it that the balancer's packets come in by"
    )]
    NotEthernet(String),
    /// The kernel refuses the program.
    #[error(transparent)]
    DataPlane(#[from] Error),
    /// More than the program looks into.
    #[error(
        "--netns was given {0} times; the program looks into {NAMESPACES} network namespaces besides its own at the most"
    )]
    TooManyNamespaces(usize),
    /// Standard output.
    #[error("can't write what there is to say: {0}")]
    Output(#[from] io::Error),
}

/// What to decapsulate.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where encapsulated packets arrive.
    pub(crate) interface: String,
    /// Networks that balancers send from; empty: those that the interface is on.
    pub(crate) from: Vec<Cidr>,
    /// Network namespaces in which connections may end, besides the interface's own.
    pub(crate) netns: Vec<String>,
    /// The interface's folder for the pins is made in it.
    pub(crate) pin_path: PathBuf,
    /// Print JSON.
    pub(crate) json: bool,
}

/// `xlb decap`, until SIGTERM or SIGINT.
///
/// # Errors
/// It can't start, or can't be taken out again.
pub(crate) fn run(args: DecapArgs, json: bool) -> anyhow::Result<u8> {
    let DecapArgs { interface, from, netns, pin_path } = args;
    let settings = Settings { interface, from, netns, pin_path, json };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("can't listen to SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("can't listen to SIGINT")?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        serve(&settings, &mut io::stdout(), stop).await?;
        Ok(DONE)
    })
}

/// Decapsulates until `stop` is over; then detaches, and leaves nothing pinned.
async fn serve(
    settings: &Settings,
    out: &mut impl Write,
    stop: impl Future<Output = ()>,
) -> Result<(), DecapError> {
    let ended = decapsulate(settings, out, stop).await;
    // Goes only if it is empty: another interface may have a folder in it.
    let _ = fs::remove_dir(&settings.pin_path);
    ended
}

async fn decapsulate(
    settings: &Settings,
    out: &mut impl Write,
    stop: impl Future<Output = ()>,
) -> Result<(), DecapError> {
    tokio::pin!(stop);
    if settings.netns.len() > NAMESPACES {
        return Err(DecapError::TooManyNamespaces(settings.netns.len()));
    }
    let network = NextHops::start()?;
    let mut interfaces = network.interfaces();
    tokio::select! {
        known = known(&mut interfaces, &network) => known?,
        () = &mut stop => return Ok(()),
    }
    let now = interfaces.borrow_and_update().clone();
    let mut decap = Decap::start(settings, now)?;
    let served = match decap.tell_start(out) {
        Ok(()) => decap.follow(&network, interfaces, stop).await,
        Err(error) => Err(error.into()),
    };
    let totals = decap.program.remove()?;
    served?;
    writeln!(out, "{}", report::ended(&settings.interface, &totals, settings.json))?;
    Ok(out.flush()?)
}

/// Waits until the kernel has told of the interfaces: there is always the loopback one.
async fn known(
    interfaces: &mut watch::Receiver<Interfaces>,
    network: &NextHops,
) -> Result<(), DecapError> {
    match timeout(SETTLING, interfaces.wait_for(|all| all.iter().next().is_some())).await {
        Ok(Ok(_)) => Ok(()),
        _ => {
            let trouble = network.trouble().borrow().clone();
            let trouble = trouble.unwrap_or_else(|| "it didn't answer".to_owned());
            Err(DecapError::NoInterfaces { trouble })
        }
    }
}

/// The program in the kernel, and what it was told.
struct Decap<'a> {
    settings: &'a Settings,
    program: Decapsulator,
    attached: Attached,
    interfaces: Interfaces,
    senders: BTreeSet<Cidr>,
    /// Why the program isn't what it should be; it is tried again.
    trouble: Option<String>,
    foreign: u64,
    namespaces: Namespaces,
    resolutions: BTreeMap<IpAddr, Resolution>,
    second_chance: SecondChance,
}

impl<'a> Decap<'a> {
    fn start(settings: &'a Settings, interfaces: Interfaces) -> Result<Self, DecapError> {
        let name = &settings.interface;
        let interface =
            interfaces.named(name).ok_or_else(|| Error::NoInterface(name.to_owned()))?;
        match interface.kind {
            LinkKind::Loopback => return Err(DecapError::Loopback(name.to_owned())),
            LinkKind::Other => return Err(DecapError::NotEthernet(name.to_owned())),
            LinkKind::Ethernet => {}
        }
        let senders = senders(&settings.from, &interfaces, interface.index);
        // The BPF file system forbids dots in names; `%` is in no interface's.
        let pins = settings.pin_path.join(name.replace('.', "%2E"));
        let mut program =
            Decapsulator::open(objects::DECAP, &pins, &endpoints(&senders, &interfaces))?;
        let attached = match program.attach(name) {
            Ok(attached) => attached,
            Err(error) => {
                program.remove()?;
                return Err(error.into());
            }
        };
        Ok(Self {
            settings,
            program,
            attached,
            interfaces,
            senders,
            trouble: None,
            foreign: 0,
            namespaces: Namespaces::default(),
            resolutions: BTreeMap::new(),
            second_chance: SecondChance::default(),
        })
    }

    /// The first line, and what the operator should mend.
    fn tell_start(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.tell_notices();
        if let Some(warning) = report::reverse_path_filter(&self.settings.interface) {
            tracing::warn!("{warning}");
        }
        self.tell_nobody();
        writeln!(out, "{}", report::serving(&self.attached, &self.senders, self.settings.json))?;
        out.flush()
    }

    fn tell_notices(&mut self) {
        for notice in self.program.take_notices() {
            tracing::warn!("{notice}");
        }
    }

    fn tell_nobody(&self) {
        if self.senders.is_empty() {
            let interface = &self.settings.interface;
            tracing::warn!(
                "{interface} is on no network, so nobody is believed; give the balancers' addresses with --from"
            );
        }
    }

    /// Keeps the program right until `stop` is over.
    ///
    /// # Errors
    /// At the start only, if the kernel gives no way to hear of what the program wants.
    async fn follow(
        &mut self,
        network: &NextHops,
        mut interfaces: watch::Receiver<Interfaces>,
        mut stop: impl Future<Output = ()> + Unpin,
    ) -> Result<(), DecapError> {
        let every = |period| {
            let mut ticks = interval_at(Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let (mut second, mut minute) = (every(RETRY_INTERVAL), every(MINUTE));
        let mut wanted = self.program.wanted()?;
        let mut resolutions = network.resolutions();
        self.look_for_namespaces().await;
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                Ok(()) = interfaces.changed() => {
                    self.interfaces = interfaces.borrow_and_update().clone();
                    self.update();
                }
                Ok(addresses) = wanted.next() => {
                    self.second_chance.want(addresses);
                    network.want(self.second_chance.wanted());
                }
                Ok(()) = resolutions.changed() => {
                    self.resolutions = resolutions.borrow_and_update().clone();
                    self.update();
                }
                _ = second.tick() => {
                    self.look_for_namespaces().await;
                    if self.trouble.is_some() {
                        self.update();
                    }
                }
                _ = minute.tick() => {
                    self.tell_foreign();
                    self.forget_unused();
                    network.want(self.second_chance.wanted());
                }
            }
        }
    }

    async fn look_for_namespaces(&mut self) {
        let Some(numbers) = self.namespaces.look(&self.settings.netns).await else { return };
        if let Err(error) = self.program.set_namespaces(numbers) {
            tracing::error!("{error}");
            // Said and tried again at the next look.
            self.namespaces = Namespaces::default();
        }
    }

    fn forget_unused(&mut self) {
        if let Err(error) = self.second_chance.forget_unused(self.program.next_hops()) {
            tracing::error!("{error}");
        }
    }

    /// Attaches to the interface where it was made anew, and puts the endpoints of now in force.
    fn update(&mut self) {
        let trouble = self.try_update().err().map(|error| error.to_string());
        self.tell_notices();
        match (&self.trouble, &trouble) {
            (Some(_), None) => tracing::info!("decapsulating on {} again", self.settings.interface),
            (before, Some(trouble)) if before.as_ref() != Some(trouble) => {
                tracing::error!("{trouble}");
            }
            _ => {}
        }
        self.trouble = trouble;
    }

    fn try_update(&mut self) -> Result<(), Error> {
        if self.interfaces.get(self.attached.ifindex).is_none() {
            self.attached = self.program.attach(&self.settings.interface)?;
        }
        let senders = senders(&self.settings.from, &self.interfaces, self.attached.ifindex);
        self.program.set_endpoints(&endpoints(&senders, &self.interfaces))?;
        if senders != self.senders {
            self.senders = senders;
            tracing::info!("packets are believed from {} now", report::list(&self.senders));
            self.tell_nobody();
        }
        self.second_chance.learn(&self.resolutions, self.program.next_hops())
    }

    fn tell_foreign(&mut self) {
        let totals = match self.program.totals() {
            Ok(totals) => totals,
            Err(error) => return tracing::error!("{error}"),
        };
        let foreign = report::foreign(&totals);
        let interface = &self.settings.interface;
        if let Some(line) = report::foreign_since(self.foreign, foreign, interface, &self.senders) {
            tracing::warn!("{line}");
        }
        self.foreign = foreign;
    }
}
