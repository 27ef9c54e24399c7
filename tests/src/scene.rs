//! A lab with servers in it, ready for a balancer.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::clients::http;
use crate::lab::{Family, Lab, Topology};
use crate::servers::{HTTP_PORT, Server, UDP_PORT};
use crate::wait;
use crate::xlb::{Decap, Forward, Protocol, Service, Settings, decap_all};

/// Name of the HTTP service.
pub const WEB: &str = "web";

/// Name of the UDP service.
pub const ECHO: &str = "echo";

/// How long a change may take until clients see it.
const READY: Duration = Duration::from_secs(20);

/// Servers on every backend, and what decapsulates for them where the mode needs it.
#[derive(Debug)]
pub struct Scene {
    /// By backend, `None` for one that was killed.
    servers: RefCell<Vec<Option<Server>>>,
    /// Ends before the namespaces do.
    _decaps: Vec<Decap>,
    /// The network.
    pub lab: Lab,
    forward: Forward,
}

impl Scene {
    /// Builds it.
    ///
    /// # Errors
    /// The network can't be built, or `xlb decap` doesn't start.
    pub fn new(topology: Topology, forward: Forward, backends: u8) -> Result<Self> {
        let lab = Lab::new(topology, backends)?;
        let servers = Server::start_all(&lab.backends)?.into_iter().map(Some).collect();
        let servers = RefCell::new(servers);
        let decaps = if forward.encapsulates() { decap_all(&lab)? } else { Vec::new() };
        Ok(Self { servers, _decaps: decaps, lab, forward })
    }

    /// A config with the services `web` and `echo` of one family, over the first backends.
    pub fn settings(&self, family: Family, backends: usize) -> Settings {
        let addresses = || self.lab.addresses(family).into_iter().take(backends);
        let web = family.vip_port(HTTP_PORT);
        let echo = family.vip_port(UDP_PORT);
        Settings {
            interfaces: self.lab.interfaces().iter().map(|&name| name.to_owned()).collect(),
            services: vec![
                Service::new(WEB, web, Protocol::Tcp, self.forward).to(addresses()),
                Service::new(ECHO, echo, Protocol::Udp, self.forward).to(addresses()),
            ],
            ..Settings::default()
        }
    }

    /// Waits until the virtual address is served by exactly these backends: 60 new connections
    /// in a row, all answered, by all of them and nobody else.
    ///
    /// # Errors
    /// It isn't so after 20 s.
    pub fn served_by(&self, family: Family, names: &[&str]) -> Result<()> {
        let target = family.vip_port(HTTP_PORT);
        wait::until(&format!("{target} to be served by {names:?}"), READY, || {
            // One first, with less patience: an answer may not be there for a while.
            http::ask(&self.lab.client.namespace, target, Duration::from_millis(500))?;
            let served = http::load(&self.lab.client.namespace, target, 60, 20)?;
            served.all_answered(60)?;
            served.served_by(names.iter().copied())
        })
    }

    /// All backends' names.
    pub fn names(&self) -> Vec<&str> {
        self.lab.backends.iter().map(|host| host.name.as_str()).collect()
    }

    /// A backend's own address, as text.
    pub fn address(&self, family: Family, backend: usize) -> String {
        self.lab.backends[backend].address(family).to_string()
    }

    /// Kills the servers of a backend: every socket is closed. Its machine stays.
    pub fn kill_server(&self, backend: usize) {
        drop(self.servers.borrow_mut()[backend].take());
    }

    /// Starts the servers of a backend again.
    ///
    /// # Errors
    /// They run already.
    pub fn start_server(&self, backend: usize) -> Result<()> {
        let host = &self.lab.backends[backend];
        let server = &mut self.servers.borrow_mut()[backend];
        ensure!(server.is_none(), "{} runs already", host.name);
        *server = Some(Server::start(host)?);
        Ok(())
    }

    /// What a backend's `/healthz` says from now on: 200 or 503.
    ///
    /// # Errors
    /// Its servers don't run.
    pub fn set_healthy(&self, backend: usize, healthy: bool) -> Result<()> {
        let servers = self.servers.borrow();
        servers[backend].as_ref().context("the backend's servers don't run")?.set_healthy(healthy);
        Ok(())
    }
}

/// Names in `all` that aren't in `without`.
pub fn others<'a>(all: &[&'a str], without: &[&str]) -> Vec<&'a str> {
    let without: BTreeSet<_> = without.iter().copied().collect();
    all.iter().copied().filter(|name| !without.contains(name)).collect()
}
