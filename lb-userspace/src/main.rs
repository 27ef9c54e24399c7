//! `xlb`: the agent, its command line, and the backend's decapsulation, in one binary.

mod model;
#[cfg_attr(not(test), expect(dead_code, reason = "the agent starts it"))]
mod network;
mod plan;

fn main() {}
