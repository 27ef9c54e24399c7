//! `xlb`: the agent, its command line, and the backend's decapsulation, in one binary.

mod config;
mod dataplane;
mod model;
mod network;
mod plan;

fn main() {}
