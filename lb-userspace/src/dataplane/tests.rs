//! The data plane in a real kernel, as root: each test with pins and a network namespace of its own.

mod flows;
mod fullnat;
mod links;
mod state;
mod world;
