//! What the figures are of: the machine.

use std::fs;

use serde::Serialize;

/// Where and how it was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Model of the CPU; `None` where the kernel doesn't say.
    pub(crate) cpu: Option<String>,
    /// CPUs that the process sees.
    pub(crate) cpus: usize,
    /// Number of the one that it was measured on.
    pub(crate) measured_on: usize,
    /// Architecture.
    pub(crate) architecture: &'static str,
    /// The kernel's release.
    pub(crate) kernel: Option<String>,
    /// Whether the programs are machine code.
    pub(crate) jit: bool,
    /// Version of xlb.
    pub(crate) xlb: &'static str,
}

/// The machine that this runs on.
pub(crate) fn describe(measured_on: usize, jit: bool) -> Machine {
    let read = |path| fs::read_to_string(path).ok();
    Machine {
        cpu: read("/proc/cpuinfo").and_then(|text| model(&text)),
        cpus: std::thread::available_parallelism().map_or(1, usize::from).max(measured_on + 1),
        measured_on,
        architecture: std::env::consts::ARCH,
        kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
        jit,
        xlb: env!("CARGO_PKG_VERSION"),
    }
}

/// Of `/proc/cpuinfo`.
fn model(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_found_where_there_is_one() {
        let text = "processor\t: 0\nmodel\t\t: 1\nmodel name\t: Some CPU: fast\nflags\t: a b\n";
        assert_eq!(model(text).as_deref(), Some("Some CPU: fast"));
        assert_eq!(model("processor\t: 0\nBogoMIPS\t: 50.00\n"), None);
    }
}
