//! A capture of every kind of frame that another program made, judged by a third one.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use xlb_tests::frames::{every_kind, tshark};
use xlb_tests::lab::Family;
use xlb_tests::need_root;
use xlb_tests::xlb::{Forward, Protocol, Service, replay_file};

use super::{backend, consistent, settings};

#[test]
fn tshark_finds_no_fault_with_what_leaves() -> Result<()> {
    need_root!();
    let directory = tempfile::tempdir()?;
    let (read, written) = (directory.path().join("in.pcap"), directory.path().join("out.pcap"));
    every_kind::write(&read)?;
    for forward in Forward::ALL {
        for target in Family::ALL {
            let mut settings = settings();
            for vip in Family::ALL {
                if !forward.encapsulates() && vip != target {
                    continue;
                }
                for (name, port, protocol) in
                    [("web", 80, Protocol::Tcp), ("dns", 53, Protocol::Udp)]
                {
                    let name = format!("{name}-{vip:?}").to_lowercase();
                    let service = Service::new(&name, vip.vip_port(port), protocol, forward);
                    settings.services.push(service.to([backend(target, 1), backend(target, 2)]));
                }
            }
            let case = || format!("{forward:?} to {target:?}");
            let replayed = replay_file(&settings, &read, &written).with_context(case)?;
            let mut verdicts = BTreeSet::new();
            for replayed in &replayed {
                consistent(&replayed.outcome).with_context(case)?;
                verdicts.insert(replayed.outcome.verdict.as_str());
            }
            // Each verdict is there: a capture of passed frames would prove nothing.
            ensure!(verdicts == BTreeSet::from(["drop", "pass", "tx"]), "{verdicts:?}");
            tshark::without_fault(&written).with_context(case)?;
        }
    }
    Ok(())
}
