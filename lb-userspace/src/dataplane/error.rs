//! What can go wrong between the agent and the kernel, and what to do about it.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use lb_common::directory_builder::DirectoryError;

/// An error of the data plane.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No BPF file system where the maps are pinned.
    #[error(
        "{} is on no BPF file system ({reason}); mount one: mount -t bpf bpf /sys/fs/bpf, or have the pin path on one", path.display()
    )]
    NoBpffs {
        /// Where the maps shall be pinned.
        path: PathBuf,
        /// Why it isn't, or what mounting one said.
        reason: String,
    },
    /// A name that can't be made where BPF objects are pinned.
    #[error("can't make {}: the BPF file system forbids dots in names; give another pin path", .0.display())]
    DotInName(PathBuf),
    /// Another process uses the same pins.
    #[error("another xlb holds the pins in {}; stop it, or give this one another pin path", .0.display())]
    InUse(PathBuf),
    /// The kernel wants a capability that the process hasn't.
    #[error(
        "the kernel doesn't permit it to {doing}; run as root, or with the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    )]
    NotPermitted {
        /// What was tried.
        doing: String,
    },
    /// The kernel's verifier refused the program.
    #[error("the kernel (its verifier) refuses the program: {source}; the end of its log:\n{log}")]
    Verifier {
        /// The last lines of the log.
        log: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The BPF object isn't one of ours.
    #[error("the BPF object has no {what}; it was not built for this version of xlb")]
    Object {
        /// The map, program or global that is missing or of another kind.
        what: String,
    },
    /// The pinned maps are of another version or make.
    #[error(
        "the maps pinned in {} don't fit this xlb: {what}; run the xlb that made them, or remove them (this stops forwarding until the agent has started): rm -r {}", path.display(), path.display()
    )]
    Incompatible {
        /// The pin directory.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// Another XDP program has the interface.
    #[error(
        "{interface} already runs an XDP program, {program}; xlb doesn't replace what it didn't attach: {}, or leave this interface out", way_out(interface, *by_link)
    )]
    Busy {
        /// The interface.
        interface: String,
        /// Number and name as far as they could be read.
        program: String,
        /// A BPF link holds it there, which `ip link` can't take off.
        by_link: bool,
    },
    /// The driver doesn't do XDP.
    #[error(
        "the driver of {interface} refuses native XDP ({source}); set xdp_mode = \"generic\" or \"auto\", or mend what it asks for: often an MTU above a page, or LRO switched on"
    )]
    NoNative {
        /// The interface.
        interface: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// No such interface.
    #[error("no interface {0} in this network namespace; see: ip link")]
    NoInterface(String),
    /// The kernel has no links for XDP programs.
    #[error("the kernel can't hold XDP programs by links on {0}; xlb needs Linux 5.9 or newer")]
    NoLinks(String),
    /// The services make no directory.
    #[error("the services can't be put in force: {0}")]
    Directory(#[from] DirectoryError),
    /// An entry beyond a map's end.
    #[error("entry {index} of the map {map} doesn't exist, it has {len}")]
    OutOfBounds {
        /// The map.
        map: &'static str,
        /// The entry.
        index: u64,
        /// Entries there are.
        len: u32,
    },
    /// More entries than a map was made for.
    #[error(
        "the map {map} has room for {room} entries, not for {wanted}; start xlb anew, which makes room"
    )]
    Full {
        /// The map.
        map: &'static str,
        /// Entries that it can hold.
        room: usize,
        /// Entries that it should.
        wanted: usize,
    },
    /// The maps contradict themselves.
    #[error("the maps contradict themselves: {0}")]
    Inconsistent(String),
    /// A frame that the kernel can't run the program on.
    #[error(
        "a frame of {len} bytes is too long to run the program on: at most {limit} bytes can be"
    )]
    FrameTooLong {
        /// Its length in bytes.
        len: usize,
        /// The longest in bytes.
        limit: usize,
    },
    /// The kernel said no.
    #[error("can't {doing}: {source}")]
    Kernel {
        /// What was tried, on what.
        doing: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// aya said no.
    #[error("can't {doing}: {source}")]
    Library {
        /// What was tried, on what.
        doing: String,
        /// Its error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Lines of the verifier's log that say why: the last ones, before its statistics.
const LOG_LINES: usize = 12;

impl Error {
    /// Of a system call; permissions get an error of their own.
    pub(super) fn kernel(doing: impl Into<String>, source: io::Error) -> Self {
        let doing = doing.into();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted { doing },
            _ => Self::Kernel { doing, source },
        }
    }

    /// Of an aya call.
    pub(super) fn library<E>(doing: impl Into<String>, source: E) -> Self
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let doing = doing.into();
        match os_error(&source) {
            Some(code) => Self::kernel(doing, io::Error::from_raw_os_error(code)),
            None => Self::Library { doing, source: Box::new(source) },
        }
    }

    /// Of loading the object.
    pub(super) fn load(source: EbpfError) -> Self {
        match source {
            EbpfError::MapError(MapError::CreateError { name, io_error }) => {
                Self::kernel(format!("create the map {name}"), io_error)
            }
            EbpfError::ParseError(error) => Self::Object { what: format!("usable ELF: {error}") },
            other => Self::library("load the BPF object", other),
        }
    }

    /// Of loading the program.
    pub(super) fn verify(source: ProgramError) -> Self {
        match source {
            ProgramError::LoadError { io_error, verifier_log } => {
                let log = summary(&verifier_log.to_string());
                if io_error.raw_os_error() == Some(libc::EPERM) && log.is_empty() {
                    return Self::NotPermitted { doing: "load the XDP program".into() };
                }
                Self::Verifier { log, source: io_error }
            }
            other => Self::library("load the XDP program", other),
        }
    }
}

/// How another program leaves an interface.
fn way_out(interface: &str, by_link: bool) -> String {
    match by_link {
        true => "it is held by a BPF link: stop the agent that owns it, or remove its pins \
                 (under /sys/fs/bpf, as a rule)"
            .to_owned(),
        false => format!(
            "remove it (ip link set dev {interface} xdp off, or stop the program that attached it)"
        ),
    }
}

/// The system's error number at the bottom of a chain of errors.
pub(super) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .find_map(io::Error::raw_os_error)
}

/// The last lines of a verifier log without its statistics.
fn summary(log: &str) -> String {
    let statistics = ["processed ", "verification time ", "stack depth ", "peak_states "];
    let lines: Vec<&str> = log
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty() && !statistics.iter().any(|word| line.starts_with(word)))
        .collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_of_thousands_of_lines_is_summarised() {
        let mut log: String = (0..10_000).map(|line| format!("{line}: (b7) r0 = 0\n")).collect();
        log += "R1 invalid mem access 'scalar'\n\nverification time 7 usec\nprocessed 9 insns\n";
        let summary = summary(&log);
        assert_eq!(summary.lines().count(), LOG_LINES);
        assert_eq!(summary.lines().last(), Some("R1 invalid mem access 'scalar'"));
        assert!(summary.starts_with("9989:"));
    }

    #[test]
    fn permission_is_told_apart() {
        let error = Error::kernel("x", io::Error::from_raw_os_error(libc::EPERM));
        assert!(matches!(error, Error::NotPermitted { .. }));
        let io_error = io::Error::from_raw_os_error(libc::E2BIG);
        let error = MapError::SyscallError(aya::sys::SyscallError { call: "call", io_error });
        let error = Error::library("x", error);
        assert!(
            matches!(error, Error::Kernel { source, .. } if source.raw_os_error() == Some(libc::E2BIG))
        );
    }
}
