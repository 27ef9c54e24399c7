//! Looks for the socket that a segment belongs to.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_CURRENT_NETNS, BPF_TCP_LISTEN, bpf_sock_tuple},
    helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie},
    programs::XdpContext,
};
use lb_common::{
    decapsulate::TcpHeader,
    layout::{FAMILY_V4, Namespaces},
    network::Network,
    packet::Packet,
};
use lb_ebpf::buffer::XdpBuffer;
use network_types::ip::Ipv6Hdr;

/// Length in bytes of what names an IPv4 connection: source address, destination address, source
/// port, destination port (`bpf_sock_tuple`).
const TUPLE4_LEN: usize = 12;
/// As above, for IPv6.
const TUPLE6_LEN: usize = 36;

/// Bytes that begin at a whole word. The compiler reads and writes bytes by the word; the verifier
/// allows that in packets wherever they lie, on the stack only at whole words.
#[repr(C, align(8))]
struct Aligned<T>(T);

/// A segment's headers, without options.
#[repr(C)]
struct Segment<N> {
    header: Aligned<N>,
    tcp: Aligned<TcpHeader>,
}

/// Where a connection's name lies; by its length the kernel knows the family.
#[derive(Clone, Copy)]
struct Tuple {
    at: *mut bpf_sock_tuple,
    len: u32,
}

// Of IPv6 they hold the tuple as it shall be: addresses end the one header, ports begin the other.
const _: () = assert!(core::mem::offset_of!(Segment<Ipv6Hdr>, tcp) == size_of::<Ipv6Hdr>());

/// Whether a socket of the interface's own network namespace or of `others` has the connection of
/// the segment whose headers lie at `at` and `tcp_at`: one that is established, opening or
/// closing. A listener has it only if the segment brings back a SYN cookie that it gave out.
///
/// Not inlined: what it needs on the stack is needed here alone.
#[inline(never)]
pub fn have_connection<N: Network>(
    context: &XdpContext,
    at: usize,
    tcp_at: usize,
    others: Option<&Namespaces>,
) -> bool {
    let packet = Packet::new(XdpBuffer::new(context));
    let Some(header) = N::read(&packet, at) else { return false };
    let Some(tcp) = packet.read(tcp_at) else { return false };
    let mut segment = Segment { header: Aligned(header), tcp: Aligned(tcp) };
    let mut tuple4 = Aligned([0; TUPLE4_LEN]);
    let (tuple, len) = if N::FAMILY == FAMILY_V4 {
        let Some(addresses) = packet.read::<[u8; 8]>(at + 12) else { return false };
        let Some(ports) = packet.read::<[u8; 4]>(tcp_at) else { return false };
        tuple4.0[..8].copy_from_slice(&addresses);
        tuple4.0[8..].copy_from_slice(&ports);
        (tuple4.0.as_mut_ptr(), TUPLE4_LEN)
    } else {
        // SAFETY: inside the segment, whose layout is asserted above.
        (unsafe { (&raw mut segment).cast::<u8>().add(8) }, TUPLE6_LEN)
    };
    let tuple = Tuple { at: tuple.cast(), len: len as u32 };
    if has_connection(context, &mut segment, tuple, BPF_F_CURRENT_NETNS as u64) {
        return true;
    }
    let Some(others) = others else { return false };
    for namespace in others {
        if *namespace == 0 {
            return false;
        }
        if has_connection(context, &mut segment, tuple, u64::from(*namespace - 1)) {
            return true;
        }
    }
    false
}

#[inline(always)]
fn has_connection<N>(
    context: &XdpContext,
    segment: &mut Segment<N>,
    tuple: Tuple,
    namespace: u64,
) -> bool {
    // SAFETY: the program's own context, and a tuple of that length.
    let socket = unsafe { bpf_skc_lookup_tcp(context.as_ptr(), tuple.at, tuple.len, namespace, 0) };
    if socket.is_null() {
        return false;
    }
    // SAFETY: it was found, so it can be read until it is released.
    let state = unsafe { (&raw const (*socket).state).read_volatile() };
    let has = state != BPF_TCP_LISTEN
        // SAFETY: the socket, and two headers of these lengths, which are only read.
        || unsafe {
            bpf_tcp_check_syncookie(
                socket.cast(),
                (&raw mut segment.header.0).cast(),
                size_of::<N>() as u32,
                (&raw mut segment.tcp.0).cast(),
                size_of::<TcpHeader>() as u32,
            )
        } == 0;
    // SAFETY: it was found, and isn't used any more.
    unsafe { bpf_sk_release(socket.cast()) };
    has
}
