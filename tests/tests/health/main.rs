//! Health checks against real servers that break in every way.

mod kinds;
mod load;
mod servers;
mod through_vip;
