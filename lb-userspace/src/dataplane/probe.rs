//! The programs of probes through VIPs: their maps, and where they are attached.
//!
//! Nothing of them is pinned: they end with the process. On kernels before 6.6, which have no
//! links for this hook, a killed process leaves filters behind that let everything pass; the next
//! one takes them off.

use std::{collections::BTreeMap, ffi::CStr};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData},
    programs::{
        Link as _, LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact},
    },
    util::KernelVersion,
};
use lb_common::layout::{ProbePort, ProbeTarget};

use super::{Error, decap::take, error::os_error, maps::Value, memory::MappedArray};

/// The program on the host's end of the pair.
const OUT: &str = "xlb_probe_out";
/// The program where answers come in.
const BACK: &str = "xlb_probe_back";
const PORTS: &str = "probe_ports";
const TARGETS: &str = "probe_targets";
/// Of our filters among those of an interface: before most.
const PRIORITY: u16 = 17;

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// By links that end with the process (TCX, Linux 6.6).
    Link,
    /// As filters of the queueing discipline clsact.
    Filter,
}

impl Hook {
    /// The best that this kernel has.
    pub(crate) fn best() -> Self {
        // Where the kernel doesn't tell, it is taken for an old one: it has the older hook as well.
        match KernelVersion::current() {
            Ok(version) if version >= KernelVersion::new(6, 6, 0) => Self::Link,
            _ => Self::Filter,
        }
    }
}

/// The loaded programs. What they are attached to is let go when they are dropped.
pub(crate) struct ProbePrograms {
    object: Ebpf,
    hook: Hook,
    /// Tells our filters from those of other agents.
    handle: TcHandle,
    targets: HashMap<MapData, u32, Value<ProbeTarget>>,
    ports: Option<ProbePorts>,
    /// On the host's end of the pair.
    out: Option<SchedClassifierLink>,
    /// By interface, where answers come in: its number, and the link.
    back: BTreeMap<String, (u32, SchedClassifierLink)>,
}

/// What each source port is for.
pub(crate) struct ProbePorts(MappedArray<ProbePort>);

impl ProbePorts {
    /// Says what the next probe from a port is for.
    ///
    /// # Errors
    /// Never: every port has a place.
    pub(crate) fn set(&mut self, port: u16, target: u32) -> Result<(), Error> {
        self.0.write(port.into(), &ProbePort { target, reserved: 0 })
    }
}

impl ProbePrograms {
    /// Loads the programs, and attaches the one to the host's end of the pair. `name` tells the
    /// agents of a host apart.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn open(
        object: &[u8],
        hook: Hook,
        name: &[u8],
        (host_end, ifindex): (&str, u32),
    ) -> Result<Self, Error> {
        let mut loader = EbpfLoader::new();
        loader.override_global("HOST_END", &ifindex, true);
        let mut object = loader.load(object).map_err(Error::load)?;
        for name in [OUT, BACK] {
            program(&mut object, name)?.load().map_err(Error::verify)?;
        }
        let ports = match object.take_map(PORTS) {
            Some(Map::Array(data)) => MappedArray::new(PORTS, data.fd(), 1 << 16)?,
            _ => return Err(Error::Object { what: format!("map {PORTS} of the right kind") }),
        };
        let ports = ProbePorts(ports);
        let targets = take(&mut object, TARGETS)?;
        let handle = TcHandle::from(number(name));
        let ports = Some(ports);
        let back = BTreeMap::new();
        let mut programs = Self { object, hook, handle, targets, ports, out: None, back };
        if hook == Hook::Filter {
            programs.clear_leftovers();
        }
        programs.out = Some(programs.attach(OUT, host_end)?);
        Ok(programs)
    }

    /// What each source port is for; given once.
    pub(crate) fn take_ports(&mut self) -> Option<ProbePorts> {
        self.ports.take()
    }

    /// Puts a target in force, or takes it away: `None`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn set_target(
        &mut self,
        number: u32,
        target: Option<&ProbeTarget>,
    ) -> Result<(), Error> {
        let set = match target {
            Some(target) => self.targets.insert(number, Value(*target), 0),
            None => match self.targets.remove(&number) {
                Err(error) if os_error(&error) == Some(libc::ENOENT) => Ok(()),
                other => other,
            },
        };
        set.map_err(|error| Error::library(format!("fill the map {TARGETS}"), error))
    }

    /// Looks for answers on exactly these interfaces, told by name and number. Gives why not, by
    /// interface.
    pub(crate) fn answer_on(&mut self, wanted: &BTreeMap<String, u32>) -> BTreeMap<String, Error> {
        let mut failed = BTreeMap::new();
        self.back.retain(|name, (ifindex, _)| wanted.get(name) == Some(ifindex));
        for (name, ifindex) in wanted {
            if self.back.contains_key(name) {
                continue;
            }
            match self.attach(BACK, name) {
                Ok(link) => drop(self.back.insert(name.clone(), (*ifindex, link))),
                Err(error) => drop(failed.insert(name.clone(), error)),
            }
        }
        failed
    }

    fn attach(
        &mut self,
        name: &'static str,
        interface: &str,
    ) -> Result<SchedClassifierLink, Error> {
        let failed = |error| Error::library(format!("attach {name} to {interface}"), error);
        let (hook, handle) = (self.hook, self.handle);
        let program = program(&mut self.object, name)?;
        let options = match hook {
            // Whoever comes later may end a packet's way.
            Hook::Link => TcAttachOptions::TcxOrder(LinkOrder::first()),
            Hook::Filter => {
                add_clsact(interface)?;
                TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle, classid: None })
            }
        };
        let link = program.attach_with_options(interface, TcAttachType::Ingress, options);
        link.and_then(|link| program.take_link(link)).map_err(failed)
    }

    /// Takes off the filters that a killed process with this name left.
    fn clear_leftovers(&self) {
        for interface in interface_names() {
            let filter = SchedClassifierLink::attached(
                &interface,
                TcAttachType::Ingress,
                PRIORITY,
                self.handle,
                None,
            );
            // On most there is none.
            let _ = filter.map_err(ProgramError::IOError).and_then(|filter| filter.detach());
        }
    }
}

fn program<'o>(object: &'o mut Ebpf, name: &'static str) -> Result<&'o mut SchedClassifier, Error> {
    let program = object.program_mut(name).and_then(|program| program.try_into().ok());
    program.ok_or_else(|| Error::Object { what: format!("program {name}") })
}

/// Adds the queueing discipline that filters hang on. It stays: others may use it by now.
fn add_clsact(interface: &str) -> Result<(), Error> {
    match qdisc_add_clsact(interface) {
        Err(error) if os_error(&error) != Some(libc::EEXIST) => {
            Err(Error::library(format!("add clsact to {interface}"), error))
        }
        _ => Ok(()),
    }
}

/// A number of its own for each name (FNV-1a).
fn number(name: &[u8]) -> u32 {
    let hash = name
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    // 0 would be any.
    hash.max(1)
}

/// The interfaces of this network namespace.
fn interface_names() -> Vec<String> {
    // SAFETY: gives an array that ends with an entry of zeros, or nothing.
    let all = unsafe { libc::if_nameindex() };
    let mut names = Vec::new();
    if all.is_null() {
        return names;
    }
    let mut entry = all;
    // SAFETY: entries up to the last, each with a string; freed once, and not used after that.
    unsafe {
        while !(*entry).if_name.is_null() {
            names.push(CStr::from_ptr((*entry).if_name).to_string_lossy().into_owned());
            entry = entry.add(1);
        }
        libc::if_freenameindex(all);
    }
    names
}
