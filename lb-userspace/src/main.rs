//! `xlb`: the agent, its command line, and the backend's decapsulation, in one binary.
#![expect(unreachable_pub, reason = "a binary has no outside; `pub` says what leaves a module")]

#[expect(unused_imports, reason = "the agent and the command line use it")]
#[cfg_attr(not(test), expect(dead_code, reason = "the agent and the command line use it"))]
mod config;
mod model;
#[cfg_attr(not(test), expect(dead_code, reason = "the agent starts it"))]
mod network;
mod plan;

fn main() {}
