//! What the kernel asks of who loads programs.

use std::fs;

use anyhow::ensure;

/// Numbers in linux/capability.h.
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// Says so before anything is tried, which would fail at a step that tells less.
///
/// # Errors
/// This process has too few capabilities.
pub fn check(verb: &str) -> anyhow::Result<()> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    ensure!(
        suffice(&status),
        "xlb {verb} needs root, or the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    );
    Ok(())
}

/// By `/proc/self/status`. Where that doesn't tell, the kernel will.
fn suffice(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(Ok(effective)) = effective.map(|bits| u64::from_str_radix(bits.trim(), 16)) else {
        return true;
    };
    let has = |capability: u32| effective >> capability & 1 == 1;
    // Before they had capabilities of their own, CAP_SYS_ADMIN was theirs, and it still is.
    has(NET_ADMIN) && (has(SYS_ADMIN) || has(BPF) && has(PERFMON))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_kernels_words() {
        for (bits, enough) in [
            ("0000000000000000", false),
            ("000001ffffffffff", true),
            ("000000c000001000", true),
            ("000000c000000000", false),
            ("0000008000001000", false),
            ("0000000000201000", true),
            ("nonsense", true),
        ] {
            assert_eq!(suffice(&format!("Name:\txlb\nCapEff:\t{bits}\n")), enough, "{bits}");
        }
        assert!(suffice(""));
    }
}
