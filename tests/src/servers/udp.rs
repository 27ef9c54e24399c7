//! A UDP server that answers each datagram with its own name.

use tokio::net::UdpSocket;

/// Answers until its task is dropped: the name, a space, and what was asked.
pub(super) async fn serve(socket: UdpSocket, name: String) {
    let mut datagram = vec![0; 65_536];
    loop {
        // An error here is the echo of an ICMP message for an earlier answer.
        let Ok((length, from)) = socket.recv_from(&mut datagram).await else { continue };
        let mut answer = format!("{name} ").into_bytes();
        answer.extend_from_slice(&datagram[..length]);
        // A client that is gone needs no answer.
        let _ = socket.send_to(&answer, from).await;
    }
}
