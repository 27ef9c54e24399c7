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
use lb_common::layout::Plain;

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

/// Deletes an entry. One that isn't there is no error.
pub(super) fn delete<K: Plain>(map: impl AsFd, key: &K) -> io::Result<()> {
    let mut attributes = attributes();
    attributes.__bindgen_anon_2.map_fd = map.as_fd().as_raw_fd() as u32;
    attributes.__bindgen_anon_2.key = std::ptr::from_ref(key) as u64;
    match bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attributes) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// An entry's value. `K` and `V` are the map's own types.
pub(super) fn lookup<K: Plain, V: Plain + Default>(
    map: impl AsFd,
    key: &K,
) -> io::Result<Option<V>> {
    let mut value = V::default();
    let mut attributes = attributes();
    attributes.__bindgen_anon_2.map_fd = map.as_fd().as_raw_fd() as u32;
    attributes.__bindgen_anon_2.key = std::ptr::from_ref(key) as u64;
    attributes.__bindgen_anon_2.__bindgen_anon_1.value = (&raw mut value) as u64;
    match bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attributes) {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A walk through a hash map, some entries at a time (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6).
pub(super) struct Walk<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    /// Entries that the last step read.
    count: usize,
    /// Where the kernel goes on: a bucket's number.
    position: Option<u32>,
}

impl<K: Plain + Default, V: Plain + Default> Walk<K, V> {
    /// A walk from the beginning, so many entries at a time.
    pub(super) fn new(batch: usize) -> Self {
        Self {
            keys: vec![K::default(); batch],
            values: vec![V::default(); batch],
            count: 0,
            position: None,
        }
    }

    /// Reads the next entries; whether there are more. `K` and `V` are the map's own types.
    pub(super) fn next(&mut self, map: impl AsFd) -> io::Result<bool> {
        let mut next = 0_u32;
        loop {
            let mut attributes = attributes();
            attributes.batch.map_fd = map.as_fd().as_raw_fd() as u32;
            attributes.batch.in_batch =
                self.position.as_ref().map_or(0, |position| std::ptr::from_ref(position) as u64);
            attributes.batch.out_batch = (&raw mut next) as u64;
            attributes.batch.keys = self.keys.as_mut_ptr() as u64;
            attributes.batch.values = self.values.as_mut_ptr() as u64;
            attributes.batch.count = self.keys.len() as u32;
            let result = bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attributes);
            // SAFETY: the union's member for this command; the kernel wrote how many it read.
            let count = unsafe { attributes.batch.count } as usize;
            match result {
                Ok(_) => {
                    self.count = count;
                    self.position = Some(next);
                    return Ok(true);
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    self.count = count;
                    return Ok(false);
                }
                // A bucket holds more than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    let room = 2 * self.keys.len();
                    self.keys.resize(room, K::default());
                    self.values.resize(room, V::default());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What the last step read.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&K, &V)> {
        self.keys.iter().zip(&self.values).take(self.count)
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
pub(crate) fn stay_on_one_cpu() -> io::Result<usize> {
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
