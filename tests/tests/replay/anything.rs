//! Any byte string gets a verdict.

use anyhow::{Result, ensure};
use fastrand::Rng;
use xlb_tests::frames::build::Tags;
use xlb_tests::lab::Family;
use xlb_tests::need_root;
use xlb_tests::xlb::{Forward, Protocol, Service, Settings, replay};

use super::{backend, consistent, packet, settings};

/// The longest frame, in bytes.
const LONGEST: usize = 9000;

#[test]
fn random_bytes_get_a_verdict() -> Result<()> {
    need_root!();
    let mut random = Rng::with_seed(1);
    let mut frames = vec![Vec::new(), vec![0; LONGEST]];
    for _ in 0..1500 {
        let longest = if random.bool() { 200 } else { LONGEST };
        let mut frame = vec![0; random.usize(0..=longest)];
        random.fill(&mut frame);
        frames.push(frame);
    }
    all_get_a_verdict(&frames)
}

#[test]
fn damaged_packets_get_a_verdict() -> Result<()> {
    need_root!();
    let mut random = Rng::with_seed(2);
    let mut frames = Vec::new();
    for round in 0..4000 {
        let family = Family::ALL[round % 2];
        let mut whole = packet(family, Protocol::Tcp, 80);
        whole.tags = Tags::ALL[round % 3];
        if random.bool() {
            whole.payload = vec![0x5a; random.usize(0..8800)];
        }
        let mut frame = whole.frame()?;
        for _ in 0..random.usize(0..4) {
            // Among the headers, where it hurts.
            let at = random.usize(0..frame.len().min(80));
            frame[at] = random.u8(..);
        }
        if random.bool() {
            frame.truncate(random.usize(0..=frame.len()));
        }
        frames.push(frame);
    }
    all_get_a_verdict(&frames)
}

fn all_get_a_verdict(frames: &[Vec<u8>]) -> Result<()> {
    for forward in Forward::ALL {
        for replayed in replay(&services(forward), frames)? {
            consistent(&replayed.outcome)?;
            ensure!(
                replayed.outcome.verdict != "pass" || replayed.after == replayed.before,
                "a passed frame changed: {:?}",
                replayed.outcome
            );
        }
    }
    Ok(())
}

fn services(forward: Forward) -> Settings {
    let mut settings = settings();
    for family in Family::ALL {
        let vip = family.vip_port(80);
        let service = Service::new(&format!("web{vip}"), vip, Protocol::Tcp, forward);
        settings.services.push(service.to([backend(family, 1), backend(family, 2)]));
    }
    settings
}
