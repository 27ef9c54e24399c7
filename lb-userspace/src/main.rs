//! `xlb`: the agent, its command line, and the backend's decapsulation, in one binary.

mod model;
mod plan;

fn main() {}
