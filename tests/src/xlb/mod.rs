//! The program under test: found, configured, run, asked.

mod agent;
mod decap;
mod pins;
mod program;
mod replay;
mod settings;

pub use agent::Agent;
pub use decap::{Decap, balancer_of, decap_all};
pub use pins::Pins;
pub use program::{Output, Program};
pub use replay::{Outcome, Replayed, replay, replay_file};
pub use settings::{
    AgentCheck, Api, Backend, Discovery, Forward, Health, Load, Protocol, Register, Service,
    Settings, Tls,
};
