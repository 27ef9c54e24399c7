//! `xlb decap` in the real kernel, as root, in network namespaces.

mod frames;
mod second_chance;
mod world;

use std::io;

use frames::{Frame, tunnels};
use world::run;

use super::*;
use crate::{
    dataplane::Endpoints,
    network::tests::namespace::{ip, sysctl},
};

#[test]
fn every_tunnel_reaches_a_local_socket() {
    run("tunnels", async |world| {
        let decap = world.start(&[]).await;
        assert_eq!(decap.first["event"], "decapsulating");
        assert_eq!(decap.first["mode"], "native");
        let from: Vec<&str> = decap.first["from"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one.as_str().unwrap())
            .collect();
        assert!(from.contains(&"10.7.0.0/24") && from.contains(&"2001:db8:7::/64"), "{from:?}");
        let mut bytes = 0;
        for (number, tunnel) in tunnels().into_iter().enumerate() {
            let data = format!("packet {number}");
            let frame = Frame { tunnel, data: data.as_bytes(), ..Frame::default() };
            world.send(&frame.bytes());
            assert_eq!(world.received(tunnel.inner_is_ipv4).await, data, "{tunnel:?}");
            bytes += frame.inner().len() as u64 + 14;
        }
        let last = decap.stop().await;
        assert_eq!(last["packets"], tunnels().len());
        assert_eq!(last["bytes"], bytes);
        assert_eq!(last["foreign"], 0);
        assert_eq!(last["dropped"], serde_json::json!({}));
        assert!(!world.pins.exists(), "pins are removed");
        assert!(!world.xdp_is_on("b0"), "the program is detached");
    });
}

#[test]
fn only_those_who_are_allowed_are_believed() {
    run("senders", async |world| {
        // Not the balancer's own network, which would be believed without `--from`.
        let decap = world.start(&["192.0.2.0/25", "2001:db8:5::/64"]).await;
        for tunnel in tunnels() {
            let (outsiders, insider) = match tunnel.outer_is_ipv4 {
                true => (["10.7.0.2", "192.0.2.128"], "192.0.2.127"),
                false => (["2001:db8:7::2", "::ffff:192.0.2.9"], "2001:db8:5::1"),
            };
            for source in outsiders {
                let source = source.parse().ok();
                world.send(&Frame { tunnel, source, ..Frame::default() }.bytes());
            }
            let source = insider.parse().ok();
            world.send(&Frame { tunnel, source, data: b"believed", ..Frame::default() }.bytes());
            // Whatever the outsiders sent would have come before.
            assert_eq!(world.received(tunnel.inner_is_ipv4).await, "believed", "{tunnel:?}");
        }
        let last = decap.stop().await;
        // A mapped address in an IPv6 header isn't even a tunnel packet.
        let ipv4 = tunnels().iter().filter(|tunnel| tunnel.outer_is_ipv4).count();
        assert_eq!(last["foreign"], 2 * ipv4 + (tunnels().len() - ipv4));
        assert_eq!(last["packets"], tunnels().len());
    });
}

#[test]
fn addresses_that_come_later_count_and_those_that_went_do_not() {
    run("later", async |world| {
        let decap = world.start(&[]).await;
        ip("addr add 10.9.0.1/24 dev b0");
        let later = Frame {
            source: "10.9.0.2".parse().ok(),
            destination: "10.9.0.1".parse().ok(),
            data: b"later",
            ..Frame::default()
        };
        world.send_until_received(&later.bytes()).await;
        ip("addr del 10.9.0.1/24 dev b0");
        let deadline = Instant::now() + SETTLING;
        let known = Frame { data: b"known", ..Frame::default() };
        // Until a round in which only the packet to the other address arrives.
        loop {
            world.send(&later.bytes());
            world.send(&known.bytes());
            if world.received(true).await == "known" {
                break;
            }
            while world.received(true).await != "known" {}
            assert!(Instant::now() < deadline, "packets to the former address are still taken");
            // It runs in this very thread, and hears of the kernel only where nobody is busy.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        decap.stop().await;
    });
}

#[test]
fn what_a_balancer_never_sends_is_dropped_and_counted() {
    run("drops", async |world| {
        let decap = world.start(&[]).await;
        let good = Frame { data: b"good", ..Frame::default() };
        let mut fragment = good.bytes();
        fragment[14 + 6] = 0x20;
        world.send(&fragment);
        let mut bad = good.bytes();
        bad[14 + 20] = 0x95;
        world.send(&bad);
        world.send(&good.bytes());
        assert_eq!(world.received(true).await, "good");
        let last = decap.stop().await;
        assert_eq!(last["dropped"], serde_json::json!({"fragment": 1, "bad_inner": 1}));
        assert_eq!(last["packets"], 1);
    });
}

#[test]
fn a_killed_one_goes_on_until_the_next_takes_over() {
    run("killed", async |world| {
        let decap = world.start(&[]).await;
        decap.kill().await;
        assert!(world.xdp_is_on("b0"));
        let frame = Frame { data: b"nobody watches", ..Frame::default() };
        world.send(&frame.bytes());
        assert_eq!(world.received(true).await, "nobody watches");

        let next = world.start(&["192.0.2.0/24"]).await;
        world.send(&frame.bytes());
        let source = "192.0.2.1".parse().ok();
        world.send(&Frame { source, data: b"taken over", ..Frame::default() }.bytes());
        assert_eq!(world.received(true).await, "taken over", "the new one decides");
        let last = next.stop().await;
        assert_eq!((&last["packets"], &last["foreign"]), (&1.into(), &1.into()));
        assert!(!world.xdp_is_on("b0"));
    });
}

#[test]
fn two_at_once_and_a_foreign_program_are_refused() {
    run("busy", async |world| {
        let decap = world.start(&[]).await;
        let error = world.refused("b0").await;
        assert!(
            matches!(&error, DecapError::DataPlane(Error::InUse(path)) if path.ends_with("b0"))
        );
        decap.stop().await;

        let other_pins = world.pins.join("other");
        let mut other =
            Decapsulator::open(objects::DECAP, &other_pins, &Endpoints::default()).unwrap();
        other.attach("b0").unwrap();
        let error = world.refused("b0").await;
        let DecapError::DataPlane(Error::Busy { interface, program, .. }) = &error else {
            panic!("{error}")
        };
        assert_eq!(interface, "b0");
        assert!(program.ends_with(", xlb_decap"), "{program}");
        assert!(!world.pins.join("b0").exists(), "nothing is left");
        other.remove().unwrap();
    });
}

#[test]
fn interfaces_that_will_not_do_are_refused() {
    run("interfaces", async |world| {
        assert!(matches!(world.refused("lo").await, DecapError::Loopback(name) if name == "lo"));
        let error = world.refused("nowhere").await;
        assert!(
            matches!(&error, DecapError::DataPlane(Error::NoInterface(name)) if name == "nowhere")
        );
        assert!(!world.pins.exists(), "nothing is left");
    });
}

#[test]
fn an_interface_made_anew_is_attached_again() {
    run("anew", async |world| {
        let decap = world.start(&[]).await;
        ip("link del b0");
        world.join_anew();
        let frame = Frame { data: b"anew", ..Frame::default() };
        world.send_until_received(&frame.bytes()).await;
        decap.stop().await;
        assert!(!world.xdp_is_on("b0"));
    });
}

#[test]
fn a_reader_that_left_ends_it_and_nothing_stays() {
    run("reader", async |world| {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let result = serve(&world.settings("b0", &[]), &mut Closed, std::future::pending()).await;
        assert!(matches!(result, Err(DecapError::Output(_))));
        assert!(!world.xdp_is_on("b0"));
        assert!(!world.pins.join("b0").exists());
    });
}

#[test]
fn a_strict_reverse_path_filter_is_told() {
    run("rp_filter", async |_| {
        sysctl("ipv4/conf/all/rp_filter", "0");
        for (all, own, strict) in [
            ("0", "0", false),
            ("0", "1", true),
            ("1", "0", true),
            ("1", "2", false),
            ("2", "1", false),
        ] {
            sysctl("ipv4/conf/all/rp_filter", all);
            sysctl("ipv4/conf/b0/rp_filter", own);
            let warning = report::reverse_path_filter("b0");
            assert_eq!(warning.is_some(), strict, "all {all}, b0 {own}");
            assert!(
                warning.is_none_or(|text| text.contains("sysctl -w net/ipv4/conf/b0/rp_filter=2"))
            );
        }
    });
}
