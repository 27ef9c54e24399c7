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

/// The programs that measure the balancer and those that it is measured against, in the same form.
pub(crate) const BENCH: &[u8] = {
    static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("XLB_BPF_OBJECT_BENCH")));
    &OBJECT.0
};

/// The decapsulation at the backend, in the same form.
pub(crate) const DECAP: &[u8] = {
    static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("XLB_BPF_OBJECT_DECAP")));
    &OBJECT.0
};

/// The programs of probes through VIPs, in the same form.
pub(crate) const PROBE: &[u8] = {
    static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("XLB_BPF_OBJECT_PROBE")));
    &OBJECT.0
};

#[cfg(test)]
mod tests {
    use super::*;

    /// `e_machine` of BPF, from Linux's `include/uapi/linux/elf-em.h`.
    const EM_BPF: u16 = 247;

    #[test]
    fn the_objects_are_aligned_elf_files_of_bpf_code() {
        for (name, object, hook) in [
            ("balancer", BALANCER, &b"xdp\0"[..]),
            ("bench", BENCH, b"xdp\0"),
            ("decap", DECAP, b"xdp\0"),
            ("probe", PROBE, b"classifier\0"),
        ] {
            assert_eq!(object.as_ptr() as usize % 8, 0, "{name}");
            assert_eq!(&object[..4], b"\x7fELF", "{name}");
            assert_eq!(u16::from_le_bytes([object[18], object[19]]), EM_BPF, "{name}");
            for section in [b".BTF\0", hook, b"license\0"] {
                assert!(
                    object.windows(section.len()).any(|window| window == section),
                    "{name} has no section {}",
                    String::from_utf8_lossy(section)
                );
            }
        }
    }
}
