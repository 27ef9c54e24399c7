//! Debian packages, and the tools that each verb runs.

use std::{
    ffi::OsStr,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

use super::{Use, say};
use crate::command;

/// How a tool is known to be there.
enum Sign {
    Program(&'static str),
    /// A Python module of the system's `/usr/bin/python3`.
    Module(&'static str),
}

struct Tool {
    sign: Sign,
    package: &'static str,
    why: &'static str,
    uses: &'static [Use],
}

const TOOLS: &[Tool] = &[
    Tool {
        sign: Sign::Program("ip"),
        package: "iproute2",
        why: "network namespaces and their links are made with ip",
        uses: &[Use::Test, Use::Demo],
    },
    Tool {
        sign: Sign::Program("nsenter"),
        package: "util-linux",
        why: "programs are started in network namespaces by nsenter",
        uses: &[Use::Test, Use::Demo],
    },
    Tool {
        sign: Sign::Program("ethtool"),
        package: "ethtool",
        why: "checksum offloads of veth links are turned off with ethtool",
        uses: &[Use::Test, Use::Demo],
    },
    Tool {
        sign: Sign::Program("bpftool"),
        package: "bpftool",
        why: "tests read the loaded maps with bpftool, as an operator would",
        uses: &[Use::Test],
    },
    Tool {
        sign: Sign::Program("tshark"),
        package: "tshark",
        why: "tests have tshark judge the packets that xlb sends",
        uses: &[Use::Test],
    },
    Tool {
        sign: Sign::Module("scapy"),
        package: "python3-scapy",
        why: "tests make packets of every kind with scapy",
        uses: &[Use::Test],
    },
    Tool {
        sign: Sign::Program("dnsmasq"),
        package: "dnsmasq-base",
        why: "tests have xlb follow the addresses that dnsmasq tells",
        uses: &[Use::Test],
    },
    Tool {
        sign: Sign::Program("curl"),
        package: "curl",
        why: "tests fetch through the balancer and read its metrics with curl",
        uses: &[Use::Test],
    },
    Tool {
        sign: Sign::Program("nginx"),
        package: "nginx-light",
        why: "health checks are tested against nginx (stop the system's own nginx, should it start)",
        uses: &[Use::Test],
    },
    Tool {
        sign: Sign::Program("dnsmasq"),
        package: "dnsmasq-base",
        why: "health checks are tested against dnsmasq",
        uses: &[Use::Test],
    },
    Tool {
        sign: Sign::Module("grpc"),
        package: "python3-grpcio",
        why: "health checks are tested against a server of gRPC's own library",
        uses: &[Use::Test],
    },
    Tool {
        sign: Sign::Program("nft"),
        package: "nftables",
        why: "tests drop and refuse packets on their way to a server with nft",
        uses: &[Use::Test],
    },
    Tool {
        sign: Sign::Program("iperf3"),
        package: "iperf3",
        why: "tests send as much as goes through the balancer with iperf3",
        uses: &[Use::Test],
    },
    Tool {
        sign: Sign::Program("dnsperf"),
        package: "dnsperf",
        why: "tests ask DNS servers through the balancer with dnsperf",
        uses: &[Use::Test],
    },
    Tool {
        sign: Sign::Program("ping"),
        package: "iputils-ping",
        why: "tests ask through the balancer who is there with ping",
        uses: &[Use::Test],
    },
    Tool {
        sign: Sign::Program("tracepath"),
        package: "iputils-tracepath",
        why: "tests follow the way through the balancer with tracepath",
        uses: &[Use::Test],
    },
];

impl Tool {
    fn is_there(&self) -> bool {
        match self.sign {
            Sign::Program(name) => command::find(name).is_some(),
            Sign::Module(name) => {
                Path::new("/usr/lib/python3/dist-packages").join(name).exists()
                    || Command::new("/usr/bin/python3")
                        .args(["-c", &format!("import {name}")])
                        .stderr(Stdio::null())
                        .status()
                        .is_ok_and(|status| status.success())
            }
        }
    }
}

/// Installs the tools of a verb that are missing.
pub(super) fn install_tools(purpose: Use) -> Result<()> {
    let missing: Vec<&Tool> =
        TOOLS.iter().filter(|tool| tool.uses.contains(&purpose) && !tool.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing.iter().map(|tool| (tool.package, tool.why)).collect::<Vec<_>>())?;
    if let Some(tool) = missing.iter().find(|tool| !tool.is_there()) {
        let (Sign::Program(name) | Sign::Module(name)) = tool.sign;
        bail!("the package {} is installed, but {name} is not there", tool.package);
    }
    Ok(())
}

/// Whether apt can install `package`.
pub(super) fn is_offered(package: &str) -> bool {
    let mut policy = Command::new("apt-cache");
    policy.args(["policy", package]).env("LC_ALL", "C").stderr(Stdio::null());
    command::capture(&mut policy, "asking apt")
        .is_ok_and(|output| has_candidate(&String::from_utf8_lossy(&output.stdout)))
}

/// Whether what `apt-cache policy` printed names a version that can be installed.
fn has_candidate(policy: &str) -> bool {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate: "))
        .any(|candidate| candidate != "(none)")
}

/// Installs packages, each with the reason that is said.
pub(super) fn install(packages: &[(&str, &str)]) -> Result<()> {
    let names: Vec<_> = packages.iter().map(|(package, _)| *package).collect();
    let wanted = names.join(" ");
    if command::find("apt-get").is_none() {
        bail!(
            "{wanted}: not here, and this is no Debian (no apt-get); install what your \
             distribution calls them ({})",
            packages
                .iter()
                .map(|(name, why)| format!("{name}: {why}"))
                .collect::<Vec<_>>()
                .join("; ")
        );
    }
    if !names.iter().all(|package| is_offered(package)) {
        say("running apt-get update", "apt does not know all the packages that are needed");
        apt_get(&["update"])?;
        if let Some(package) = names.iter().find(|package| !is_offered(package)) {
            bail!("apt offers no package {package} on this system ({})", system());
        }
    }
    for (package, why) in packages {
        say(&format!("installing {package} by apt-get"), why);
    }
    let arguments = [&["install", "--yes", "--no-install-recommends"], names.as_slice()].concat();
    if apt_get(&arguments).is_ok() {
        return Ok(());
    }
    // Package lists that are older than the archive name files that are gone.
    say("running apt-get update", "the installation failed, maybe for outdated package lists");
    apt_get(&["update"])?;
    apt_get(&arguments)
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let keep = [("DEBIAN_FRONTEND", OsStr::new("noninteractive"))];
    let mut apt_get = command::as_root("apt-get", &keep, "installing packages")?;
    apt_get.args(["-qq", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=120"]);
    command::output(apt_get.args(arguments), "installing packages").map(drop)
}

/// The system's name, for errors.
fn system() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "unknown system".to_owned(), |name| name.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_without_candidate_is_not_offered() {
        assert!(has_candidate("x:\n  Installed: (none)\n  Candidate: 1.2-3\n"));
        assert!(!has_candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_candidate(""));
    }
}
