//! The ways to other backends, which the program on a backend sends packets on by.
//!
//! The program makes an entry for each address that it meets, and tells it; ways are filled in
//! here.

use std::io;

use aya::{
    Ebpf,
    maps::{HashMap, MapData, RingBuf},
};
use lb_common::{layout::NextHop, network::Address};
use tokio::io::unix::AsyncFd;

use super::{Error, decap::take, error::os_error, flows, maps::Value};

/// What the program knows of other backends.
pub(crate) struct NextHopTable(HashMap<MapData, Address, Value<NextHop>>);

impl NextHopTable {
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self(take(object, "next_hops")?))
    }

    /// Puts a way in force, or takes it away: `None`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn set(&mut self, address: Address, way: Option<NextHop>) -> Result<(), Error> {
        let now = flows::now();
        let way = NextHop { used: now, ..way.unwrap_or_default() };
        self.0
            .insert(address, Value(way), 0)
            .map_err(|error| Error::library("fill the map next_hops", error))
    }

    /// Removes the addresses that no packet has named for so many seconds. Gives the others.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn retain_used_within(&mut self, seconds: u32) -> Result<Vec<Address>, Error> {
        let failed = |error| Error::library("read the map next_hops", error);
        let now = flows::now();
        let mut kept = Vec::new();
        let all = self.0.keys().collect::<Result<Vec<_>, _>>().map_err(failed)?;
        for address in all {
            let Value(way) = self.0.get(&address, 0).map_err(failed)?;
            if now.saturating_sub(way.used) <= seconds {
                kept.push(address);
                continue;
            }
            match self.0.remove(&address) {
                Err(error) if os_error(&error) != Some(libc::ENOENT) => return Err(failed(error)),
                _ => {}
            }
        }
        Ok(kept)
    }
}

/// Tells the addresses that a program asks for: each record begins with one.
pub(crate) struct Wanted(AsyncFd<RingBuf<MapData>>);

impl Wanted {
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Self, Error> {
        // SAFETY: the ring's descriptor is its own, and the same one for as long as it is there.
        let ring = unsafe { AsyncFd::register(ring) }
            .map_err(|error| Error::kernel("wait for what the program wants", error.into()))?;
        Ok(Self(ring))
    }

    /// Waits for the next ones. Cancelling it loses none.
    ///
    /// # Errors
    /// If the kernel can't be waited for.
    pub(crate) async fn next(&mut self) -> io::Result<Vec<Address>> {
        let mut ready = self.0.readable_mut().await?;
        let ring = ready.get_inner_mut();
        let mut addresses = Vec::new();
        while let Some(record) = ring.next() {
            addresses.extend(record.first_chunk::<16>());
        }
        ready.clear_ready();
        Ok(addresses)
    }
}
