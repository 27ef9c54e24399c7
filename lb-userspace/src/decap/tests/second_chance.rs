//! Packets that go on to another backend, through the loaded program.

use std::{
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use super::{
    frames::stranger,
    world::{World, run},
};

/// How long a datagram is waited for before its frame is sent again.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long it may take until the way is known.
const DEADLINE: Duration = Duration::from_secs(15);

/// Sends a frame until it arrives at the other backend. Gives what arrives behind UDP.
async fn send_until_it_goes_on(world: &World, frame: &[u8], socket: &UdpSocket) -> Vec<u8> {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let begin = Instant::now();
    let mut data = [0; 256];
    loop {
        world.send(frame);
        if let Ok(len) = socket.recv(&mut data) {
            return data[..len].to_vec();
        }
        assert!(begin.elapsed() < DEADLINE, "it never went on");
        // The process under test runs on this thread, too.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_stranger_goes_out_of_another_interface() {
    run("chance", async |world| {
        let other = world.join_another();
        let decap = world.start(&["192.0.2.0/24", "2001:db8:5::/64"]).await;
        for (balancer, candidate, gue_at) in
            [("192.0.2.9", "10.8.0.2", 14 + 28), ("2001:db8:5::9", "2001:db8:8::2", 14 + 48)]
        {
            let [balancer, candidate]: [IpAddr; 2] =
                [balancer, candidate].map(|text| text.parse().unwrap());
            let frame = stranger(balancer, candidate);
            let mut expected = frame[gue_at..].to_vec();
            expected[4 + 2] = 1;
            assert_eq!(send_until_it_goes_on(&world, &frame, &other).await, expected);

            let mut last_hop = frame.clone();
            last_hop[14 + if balancer.is_ipv4() { 8 } else { 7 }] = 1;
            world.send(&last_hop);
        }
        let last = decap.stop().await;
        assert_eq!(last["forwarded"], 2, "{last}");
        assert_eq!(last["packets"], 0, "{last}");
        let dropped = &last["dropped"];
        assert_eq!(dropped["no_hop_left"], 2, "{last}");
        assert!(dropped["candidate_unresolved"].as_u64().unwrap() >= 2, "{last}");
    });
}

#[test]
fn nobody_answers_for_a_candidate() {
    run("silent", async |world| {
        let decap = world.start(&[]).await;
        let frame = stranger("10.7.0.2".parse().unwrap(), "10.7.0.99".parse().unwrap());
        for _ in 0..3 {
            world.send(&frame);
            tokio::time::sleep(PATIENCE).await;
        }
        let last = decap.stop().await;
        assert_eq!(last["dropped"], serde_json::json!({"candidate_unresolved": 3}));
        assert_eq!(last["forwarded"], 0);
    });
}

/// More addresses than there is room for: the rest is dropped, and all others are served.
#[test]
fn a_flood_of_candidates_fills_no_more_than_the_map() {
    run("flood", async |world| {
        let other = world.join_another();
        let decap = world.start(&["192.0.2.0/24"]).await;
        let balancer = "192.0.2.9".parse().unwrap();
        let known = stranger(balancer, "10.8.0.2".parse().unwrap());
        send_until_it_goes_on(&world, &known, &other).await;
        for number in 0..1200_u16 {
            let [high, low] = number.to_be_bytes();
            world.send(&stranger(balancer, [10, 200, high, low].into()));
        }
        send_until_it_goes_on(&world, &known, &other).await;
        let last = decap.stop().await;
        assert_eq!(last["forwarded"], 2, "{last}");
        assert!(last["dropped"]["candidate_unresolved"].as_u64().unwrap() >= 1200, "{last}");
    });
}
