//! The words of the agent's model that live weights are decided in.

use std::net::IpAddr;

/// As the agent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BackendKey {
    pub(crate) address: IpAddr,
    pub(crate) port: Option<u16>,
}

/// As the agent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServiceKey {
    pub(crate) vip: IpAddr,
    pub(crate) port: Option<u16>,
    pub(crate) protocol: Protocol,
}

/// As the agent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Tcp,
}
