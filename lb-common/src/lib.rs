//! The packet path of xlb and the types that its BPF programs and its agent share.
//!
//! Everything here runs in the kernel as BPF and on the host under unit tests alike: no
//! allocation, no clock, no I/O. The `std` feature adds the pure algorithms that only the agent
//! runs (ring and directory builders).
#![cfg_attr(not(any(test, feature = "std")), no_std)]

pub mod answer;
pub mod balance;
pub mod candidates;
pub mod carry_on;
pub mod checksum;
pub mod control;
pub mod decapsulate;
#[cfg(any(test, feature = "std"))]
pub mod directory_builder;
pub mod flow;
pub mod fullnat;
pub mod hash;
pub mod id;
pub mod layout;
pub mod link;
pub mod moving;
pub mod network;
pub mod packet;
pub mod probe;
pub mod quoted;
pub mod rewrite;
#[cfg(any(test, feature = "std"))]
pub mod ring;
pub mod select;
pub mod tables;
pub mod too_big;
pub mod translate;
pub mod verdict;
