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
