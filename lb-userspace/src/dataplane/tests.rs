//! The data plane in a real kernel, as root: each test with pins and a network namespace of its own.

mod flows;
mod links;
mod state;
mod world;
