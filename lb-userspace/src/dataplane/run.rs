//! The loaded program run on single frames, on no interface (`BPF_PROG_TEST_RUN`).

use aya::programs::{ProgramError, TestRun as _, TestRunOptions};
use lb_common::{
    layout::{Sought, TraceRecord, Way, WayQuestion},
    network::Address,
    verdict::DropReason,
};

use super::{DataPlane, Error, error::os_error, maps::Value};

/// The program that says which way packets to a client go.
pub(super) const WAY_PROGRAM: &str = "xlb_way";
/// The shortest frame that the kernel hands to an XDP program: an Ethernet header.
pub(super) const MIN_FRAME: usize = 14;
/// The longest frame: what an IP packet of the greatest length needs, in several pieces of memory.
const MAX_FRAME: usize = (1 << 16) + 64;
/// Room for what the program puts in front.
pub(super) const GROWTH: usize = 256;

/// What the kernel does with a frame after the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Drops it, and reports an error to tracing.
    Aborted,
    /// Drops it.
    Drop,
    /// Hands it to the network stack.
    Pass,
    /// Sends it back out of the interface that it came in by.
    Tx,
    /// Sends it out of another interface.
    Redirect,
}

/// What the program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TestRun {
    /// Its verdict.
    pub(crate) action: Action,
    /// The frame as it left it.
    pub(crate) frame: Vec<u8>,
    /// What it recorded; all zero unless it was loaded for tracing.
    pub(crate) trace: TraceRecord,
}

impl DataPlane {
    /// Runs the program on a frame. `ingress_ifindex`: the interface that it shall seem to come in
    /// by, which must be up; `None` is the loopback.
    ///
    /// `None` for a frame shorter than an Ethernet header: the kernel hands none to a program.
    ///
    /// # Errors
    /// If the frame is too long, or the kernel refuses.
    pub(crate) fn test_run(
        &mut self,
        frame: &[u8],
        ingress_ifindex: Option<u32>,
    ) -> Result<Option<TestRun>, Error> {
        if frame.len() < MIN_FRAME {
            return Ok(None);
        }
        if frame.len() > MAX_FRAME {
            return Err(Error::FrameTooLong { len: frame.len(), limit: MAX_FRAME });
        }
        self.set_trace(TraceRecord::default())?;
        let context = ingress_ifindex.map(|ifindex| context(frame.len(), ifindex));
        let mut out = vec![0; frame.len() + GROWTH];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.ctx_in = context.as_deref();
        let result =
            self.program.xdp()?.test_run(options).map_err(|error| run_error(frame.len(), error))?;
        out.truncate(result.data_size_out as usize);
        let Value(trace) = self
            .maps
            .trace
            .get(&0, 0)
            .map_err(|error| Error::library("read the map trace", error))?;
        Ok(Some(TestRun { action: action(result.return_value), frame: out, trace }))
    }

    /// The way of packets to a client, as the program finds it now, and whether by the routes that it
    /// was told. Nothing is counted; a next hop
    /// that the kernel doesn't know is asked for, as for a packet.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn way(
        &self,
        sought: Sought,
        source: Address,
        family: u8,
    ) -> Result<Result<(Way, bool), DropReason>, Error> {
        let failed = |what: &str| {
            let doing = format!("{what} the map way_question");
            move |error| Error::library(doing, error)
        };
        let mut map = self.maps.way_question.borrow_mut();
        let question = WayQuestion::new(sought, source, family);
        map.set(0, Value(question), 0).map_err(failed("write"))?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(&[0; MIN_FRAME]);
        self.program
            .other(WAY_PROGRAM)?
            .test_run(options)
            .map_err(|error| Error::library("ask for the way to a client", error))?;
        let Value(answer) = map.get(&0, 0).map_err(failed("read"))?;
        Ok(match answer.reason {
            0 => Ok((answer.way, answer.is_told != 0)),
            number => Err(DropReason::try_from(number).unwrap_or(DropReason::NoRoute)),
        })
    }

    fn set_trace(&mut self, record: TraceRecord) -> Result<(), Error> {
        if !self.options.trace {
            return Ok(());
        }
        self.maps
            .trace
            .set(0, Value(record), 0)
            .map_err(|error| Error::library("clear the map trace", error))
    }
}

/// What the kernel is told of a frame that seems to come in by an interface.
pub(super) fn context(len: usize, ingress_ifindex: u32) -> Vec<u8> {
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, and the egress
    // interface, of which only a program behind a redirect knows.
    let fields = [0, len as u32, 0, ingress_ifindex, 0, 0];
    fields.iter().flat_map(|field| field.to_ne_bytes()).collect()
}

fn run_error(len: usize, error: ProgramError) -> Error {
    let doing = format!("run the program on a frame of {len} bytes");
    match os_error(&error) {
        Some(libc::ENOMEM | libc::E2BIG) => Error::FrameTooLong { len, limit: MAX_FRAME },
        _ => Error::library(doing, error),
    }
}

/// Unknown actions are aborts to the kernel, too.
pub(super) fn action(raw: u32) -> Action {
    match raw {
        1 => Action::Drop,
        2 => Action::Pass,
        3 => Action::Tx,
        4 => Action::Redirect,
        _ => Action::Aborted,
    }
}
