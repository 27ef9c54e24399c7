//! `xlb`: the agent, its command line, and the backend's decapsulation, in one binary.

mod agent;
mod config;
mod dataplane;
mod model;
mod network;
mod plan;
mod state;

fn main() {}
