//! The few `bpf(2)` commands that aya has no function for, and what measuring asks of the kernel.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type};

/// An XDP link, as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkInfo {
    /// The program behind it.
    pub(super) program_id: u32,
    /// Its interface; 0 once that is gone.
    pub(super) ifindex: u32,
}

/// Opens what is pinned at a path.
pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = attributes();
    attributes.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    let descriptor = bpf(bpf_cmd::BPF_OBJ_GET, &mut attributes)?;
    // SAFETY: a new descriptor that belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Pins a BPF object.
pub(super) fn pin(object: impl AsFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = attributes();
    // SAFETY: the union's member for this command.
    let pin = unsafe { &mut attributes.__bindgen_anon_4 };
    pin.bpf_fd = object.as_fd().as_raw_fd() as u32;
    pin.pathname = path.as_ptr() as u64;
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attributes).map(|_| ())
}

/// Attaches an XDP program to an interface by a link (Linux 5.9). `flags`: the mode, `XDP_FLAGS_*`.
pub(super) fn link_create(program: impl AsFd, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attributes = attributes();
    attributes.link_create.__bindgen_anon_1.prog_fd = program.as_fd().as_raw_fd() as u32;
    attributes.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attributes.link_create.attach_type = bpf_attach_type::BPF_XDP as u32;
    attributes.link_create.flags = flags;
    let descriptor = bpf(bpf_cmd::BPF_LINK_CREATE, &mut attributes)?;
    // SAFETY: a new descriptor that belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Puts a program in the place of a link's, at once.
pub(super) fn link_update(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut attributes = attributes();
    attributes.link_update.link_fd = link.as_fd().as_raw_fd() as u32;
    attributes.link_update.__bindgen_anon_1.new_prog_fd = program.as_fd().as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attributes).map(|_| ())
}

/// Detaches a link's program at once, whoever else holds the link (Linux 5.9).
pub(super) fn link_detach(link: impl AsFd) -> io::Result<()> {
    let mut attributes = attributes();
    attributes.link_detach.link_fd = link.as_fd().as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attributes).map(|_| ())
}

/// Describes the XDP link behind a descriptor.
pub(super) fn link_info(link: impl AsFd) -> io::Result<LinkInfo> {
    // SAFETY: integers and unions of them, for which zero is a value.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    let mut attributes = attributes();
    attributes.info.bpf_fd = link.as_fd().as_raw_fd() as u32;
    attributes.info.info_len = size_of::<bpf_link_info>() as u32;
    attributes.info.info = (&raw mut info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    if info.type_ != bpf_link_type::BPF_LINK_TYPE_XDP as u32 {
        return Err(io::Error::other("it is no link of an XDP program"));
    }
    // SAFETY: the member that the kernel fills in for an XDP link.
    let ifindex = unsafe { info.__bindgen_anon_1.xdp.ifindex };
    Ok(LinkInfo { program_id: info.prog_id, ifindex })
}

/// Deletes an entry of a map with 32-bit keys. One that isn't there is no error.
pub(super) fn delete_entry(map: impl AsFd, key: u32) -> io::Result<()> {
    let mut attributes = attributes();
    attributes.__bindgen_anon_2.map_fd = map.as_fd().as_raw_fd() as u32;
    attributes.__bindgen_anon_2.key = (&raw const key) as u64;
    match bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attributes) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// CPU time of the calling thread, in ns.
pub(super) fn thread_time_ns() -> io::Result<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Keeps the calling thread on the last of the CPUs that it may run on: interrupts mostly go to the
/// first. Returns its number.
pub(super) fn stay_on_one_cpu() -> io::Result<usize> {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: bits, for which zero is a value.
    let mut allowed: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes as many bytes as there are.
    if unsafe { libc::sched_getaffinity(0, size, &raw mut allowed) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let number = (0..8 * size)
        // SAFETY: a bit of the set.
        .rfind(|&number| unsafe { libc::CPU_ISSET(number, &allowed) })
        .ok_or_else(|| io::Error::other("there is no CPU to run on"))?;
    // SAFETY: bits, for which zero is a value.
    let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: a bit of the set.
    unsafe { libc::CPU_SET(number, &mut one) };
    // SAFETY: the kernel reads as many bytes as there are.
    if unsafe { libc::sched_setaffinity(0, size, &raw const one) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(number)
}

fn attributes() -> bpf_attr {
    // SAFETY: integers and unions of them, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: the attributes belong to the command, and what they point to outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attributes),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
