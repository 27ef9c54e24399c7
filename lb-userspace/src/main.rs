//! `xlb`: the agent, its command line, and the backend's decapsulation, in one binary.

mod agent;
#[expect(unused_imports, reason = "the agent uses it")]
#[cfg_attr(not(test), expect(dead_code, reason = "the agent serves it"))]
mod api;
#[expect(unused_imports, reason = "the agent and the command line use it")]
#[cfg_attr(not(test), expect(dead_code, reason = "the agent and the command line use it"))]
mod config;
mod dataplane;
#[cfg_attr(not(test), expect(dead_code, reason = "the agent starts the checks"))]
mod health;
#[cfg_attr(not(test), expect(dead_code, reason = "the agent serves them"))]
mod metrics;
mod model;
mod network;
#[cfg_attr(not(test), expect(dead_code, reason = "the data path loads them"))]
mod objects;
mod plan;
mod state;

fn main() {}
