//! No connection breaks: what clients notice while backends, agent and program change.
//!
//! Each course is one balancer with 1,000 long connections, 500 UDP sessions, a bulk transfer and
//! a stream of new connections, through all changes one after the other. A row of its table is
//! one change: how many flows there were, and how many broke.

mod changes;
mod courses;
mod death;
mod flaps;
mod lives;
mod proof;
mod row;
mod stall;
mod world;

/// Whether the courses shall run: `XLB_CONSISTENCY=1`. They load a machine for minutes, and judge
/// times, which a machine that others use as well doesn't keep.
fn asked_for() -> bool {
    let asked = std::env::var_os("XLB_CONSISTENCY").is_some();
    if !asked {
        println!("SKIP consistency: set XLB_CONSISTENCY=1 to run the courses, on a quiet machine");
    }
    asked
}
