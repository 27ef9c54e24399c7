//! `xlb`: the agent, its command line, and the backend's decapsulation, in one binary.

mod agent;
mod api;
mod config;
mod dataplane;
mod health;
mod metrics;
mod model;
mod network;
mod objects;
mod plan;
mod state;

fn main() {}
