//! The routes toward clients, as the program is told them.

use std::{io, mem::offset_of, time::Duration};

use aya::programs::{TestRun as _, TestRunOptions};
use lb_common::layout::{ClientRouteTable, ClientRoutes};

use super::{DataPlane, Error, run::MIN_FRAME};

/// The program that has the routes hold on.
pub(super) const HOLD_PROGRAM: &str = "xlb_hold_routes";
/// How long they hold. Who is gone, or stands still, tells nothing; the kernel is asked then.
const HOLD: Duration = Duration::from_secs(3);

/// So long by the clock that the program reads.
pub(super) fn hold_ticks() -> Result<u64, Error> {
    let mut tick = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // This clock moves with the kernel's tick: that is its resolution.
    // SAFETY: writes one value.
    if unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut tick) } != 0 {
        return Err(Error::kernel("ask for the kernel's tick", io::Error::last_os_error()));
    }
    Ok((HOLD.as_nanos() as u64).div_ceil(tick.tv_nsec.max(1) as u64))
}

impl DataPlane {
    /// Tells the program these routes, all at once. They come in force with the next
    /// [`hold`](Self::hold_client_routes), if none hold.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn tell_client_routes(&mut self, routes: &ClientRoutes) -> Result<(), Error> {
        let table = self.maps.client_routes.read(0)?;
        let active = table.active & 1;
        if table.halves[active as usize] == *routes {
            return Ok(());
        }
        if self.recent_client_routes {
            self.grace()?;
        }
        let other = 1 - active;
        let half = offset_of!(ClientRouteTable, halves);
        let half = half + other as usize * size_of::<ClientRoutes>();
        self.maps.client_routes.write_part(0, half, routes)?;
        self.maps.client_routes.write_u32(0, offset_of!(ClientRouteTable, active), other)?;
        self.recent_client_routes = true;
        Ok(())
    }

    /// Has the told routes hold on for [`HOLD`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn hold_client_routes(&self) -> Result<(), Error> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(&[0; MIN_FRAME]);
        self.program
            .other(HOLD_PROGRAM)?
            .test_run(options)
            .map(|_| ())
            .map_err(|error| Error::library("have the routes toward clients hold on", error))
    }

    /// Has the told routes hold until this time, by the kernel's tick: 0 takes them back.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn hold_client_routes_until(&mut self, ticks: u64) -> Result<(), Error> {
        self.maps.client_routes.write_part(0, offset_of!(ClientRouteTable, until), &ticks)
    }
}
