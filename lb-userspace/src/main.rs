//! `xlb`: the agent, its command line, and the backend's decapsulation, in one binary.

mod agent;
mod config;
mod dataplane;
#[cfg_attr(not(test), expect(dead_code, reason = "the agent starts the checks"))]
mod health;
mod model;
mod network;
mod plan;
mod state;

fn main() {}
