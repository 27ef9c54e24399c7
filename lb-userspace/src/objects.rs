//! The BPF objects, embedded, so that the binary is all that a server needs.

/// Content at an address that is a multiple of 8: the ELF headers in it are read in place, as
/// structs with 64-bit fields.
#[repr(C, align(8))]
struct Aligned<Content: ?Sized>(Content);

/// The balancer: an ELF object of BPF code with BTF.
pub(crate) const BALANCER: &[u8] = {
    static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("XLB_BPF_OBJECT_BALANCER")));
    &OBJECT.0
};

#[cfg(test)]
mod tests {
    use super::*;

    /// `e_machine` of BPF, from Linux's `include/uapi/linux/elf-em.h`.
    const EM_BPF: u16 = 247;

    #[test]
    fn the_balancer_is_an_aligned_bpf_object() {
        assert_eq!(BALANCER.as_ptr() as usize % 8, 0);
        assert_eq!(&BALANCER[..4], b"\x7fELF");
        assert_eq!(u16::from_le_bytes([BALANCER[18], BALANCER[19]]), EM_BPF);
        for section in [&b".BTF\0"[..], b"xdp\0", b"license\0"] {
            assert!(
                BALANCER.windows(section.len()).any(|window| window == section),
                "no section {}",
                String::from_utf8_lossy(section)
            );
        }
    }
}
