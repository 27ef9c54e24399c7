//! Pieces that the tests and the demo of xlb are built from.
//!
//! A test owns what it makes: network namespaces, processes and pinned maps go away when their
//! guards are dropped, after a panic too. Nothing here sends to an address outside of the
//! namespaces that it made.

pub mod clients;
pub mod frames;
pub mod interrupt;
pub mod lab;
pub mod netns;
pub mod process;
pub mod relay;
pub mod scene;
pub mod scratch;
pub mod servers;
pub mod wait;
pub mod xlb;

/// `true` where this process may make namespaces and load BPF programs.
///
/// Says the line `SKIP <test>: needs root` otherwise, so that a run tells what it left out.
pub fn root_or_skip(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("SKIP {test}: needs root");
    }
    root
}

/// Leaves a test early, with a printed reason, where the process isn't root.
#[macro_export]
macro_rules! need_root {
    () => {
        if !$crate::root_or_skip(std::thread::current().name().unwrap_or("test")) {
            return Ok(());
        }
    };
}
