//! The program's links to interfaces.

use std::{
    collections::BTreeMap,
    ffi::CString,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE};

use super::{
    DataPlane, Error,
    pins::{Pins, remove_if_there},
    sys,
    xdp_state::XdpState,
};

/// How the operator wants the program to run on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttachMode {
    /// In the driver where it can, else in the network stack.
    Auto,
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
}

/// How the program runs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// An interface that the program is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    /// Its name.
    pub(crate) interface: String,
    /// Its index.
    pub(crate) ifindex: u32,
    /// How.
    pub(crate) mode: Mode,
}

/// A link that this process holds open; a pinned one stays without it.
#[derive(Debug)]
struct Link {
    descriptor: OwnedFd,
    ifindex: u32,
    mode: Mode,
}

/// A program's links, by interface.
#[derive(Debug, Default)]
pub(super) struct Links(BTreeMap<String, Link>);

impl Mode {
    fn flags(self) -> u32 {
        match self {
            Self::Native => XDP_FLAGS_DRV_MODE,
            Self::Generic => XDP_FLAGS_SKB_MODE,
        }
    }
}

impl From<Mode> for AttachMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Native => Self::Native,
            Mode::Generic => Self::Generic,
        }
    }
}

impl AttachMode {
    fn tries(self) -> &'static [Mode] {
        match self {
            Self::Auto => &[Mode::Native, Mode::Generic],
            Self::Native => &[Mode::Native],
            Self::Generic => &[Mode::Generic],
        }
    }
}

impl DataPlane {
    /// Attaches the program to an interface. One that has it already stays as it is; in another
    /// mode than is asked for, it is detached first, and packets pass for a moment.
    ///
    /// # Errors
    /// If another program is there, or the kernel refuses. Where only the mode is refused, the
    /// program runs on in the one that it had.
    pub(crate) fn attach(&mut self, interface: &str, mode: AttachMode) -> Result<Attached, Error> {
        let program = self.program.fd()?.as_fd();
        self.links.attach(program, self.pins.as_ref(), interface, mode, &mut self.notices)
    }

    /// Detaches the program from an interface. One that hasn't it is no error.
    pub(crate) fn detach(&mut self, interface: &str) -> Result<(), Error> {
        self.links.detach(self.pins.as_ref(), interface)
    }

    /// The interfaces that the program is attached to. Drops links whose interface is gone, or
    /// that somebody else detached.
    pub(crate) fn attached(&mut self) -> Result<Vec<Attached>, Error> {
        self.links.attached(self.pins.as_ref(), &mut self.notices)
    }
}

impl Links {
    /// Attaches a program to an interface, and pins the link; see [`DataPlane::attach`].
    pub(super) fn attach(
        &mut self,
        program: BorrowedFd<'_>,
        pins: Option<&Pins>,
        interface: &str,
        mode: AttachMode,
        notices: &mut Vec<String>,
    ) -> Result<Attached, Error> {
        let ifindex = interface_index(interface)?;
        let mut former = None;
        if let Some(link) = self.0.get(interface) {
            if link.is_on(interface, ifindex)? {
                if mode.tries().contains(&link.mode) {
                    return Ok(link.attached(interface));
                }
                // Both modes at once are refused.
                former = Some(link.mode);
            }
            self.detach(pins, interface)?;
        }
        let created = Link::create(program, interface, ifindex, mode, notices);
        match (created, former) {
            (Ok(link), _) => self.keep(pins, interface, link),
            (Err(refused), None) => Err(refused),
            (Err(refused), Some(former)) => {
                let link = Link::create(program, interface, ifindex, former.into(), notices)?;
                self.keep(pins, interface, link)?;
                Err(refused)
            }
        }
    }

    /// Pins a new link, and holds it.
    fn keep(
        &mut self,
        pins: Option<&Pins>,
        interface: &str,
        link: Link,
    ) -> Result<Attached, Error> {
        let attached = link.attached(interface);
        if let Some(pins) = pins {
            let path = pins.link(interface);
            remove_if_there(&path)?;
            sys::pin(&link.descriptor, &path)
                .map_err(|error| Error::kernel(format!("pin {}", path.display()), error))?;
        }
        self.0.insert(interface.to_owned(), link);
        Ok(attached)
    }

    /// Detaches from an interface, and removes the link's pin.
    pub(super) fn detach(&mut self, pins: Option<&Pins>, interface: &str) -> Result<(), Error> {
        // Not left to the removal of the pin, which the kernel works off later.
        if let Some(link) = self.0.remove(interface) {
            sys::link_detach(&link.descriptor)
                .map_err(|error| Error::kernel(format!("detach from {interface}"), error))?;
        }
        match pins {
            Some(pins) => remove_if_there(&pins.link(interface)),
            None => Ok(()),
        }
    }

    /// Detaches from all interfaces.
    pub(super) fn detach_all(&mut self, pins: Option<&Pins>) -> Result<(), Error> {
        let interfaces: Vec<String> = self.0.keys().cloned().collect();
        interfaces.iter().try_for_each(|interface| self.detach(pins, interface))
    }

    /// The interfaces that there are links to. Drops those whose interface is gone.
    pub(super) fn attached(
        &mut self,
        pins: Option<&Pins>,
        notices: &mut Vec<String>,
    ) -> Result<Vec<Attached>, Error> {
        let mut gone = Vec::new();
        for (interface, link) in &self.0 {
            if info(interface, &link.descriptor)?.ifindex == 0 {
                gone.push(interface.clone());
            }
        }
        for interface in gone {
            self.detach(pins, &interface)?;
            notices.push(match interface_index(&interface) {
                Ok(_) => format!("the program was detached from {interface}, and not by xlb"),
                Err(_) => format!("interface {interface} is gone, and its link with it"),
            });
        }
        Ok(self.0.iter().map(|(interface, link)| link.attached(interface)).collect())
    }

    /// Takes over the pinned links, and has them run a program.
    pub(super) fn take(
        &mut self,
        program: BorrowedFd<'_>,
        pins: &Pins,
        notices: &mut Vec<String>,
    ) -> Result<(), Error> {
        for interface in pins.linked()? {
            let path = pins.link(&interface);
            let descriptor = sys::open_pinned(&path)
                .map_err(|error| Error::kernel(format!("open {}", path.display()), error))?;
            let ifindex = info(&interface, &descriptor)?.ifindex;
            if ifindex == 0 {
                remove_if_there(&path)?;
                notices.push(format!("interface {interface} is gone; removed its old link"));
                continue;
            }
            // An interface of another network namespace can't be asked.
            let state = XdpState::of(ifindex).unwrap_or_default();
            let mode = state.mode.unwrap_or(Mode::Native);
            self.0.insert(interface, Link { descriptor, ifindex, mode });
        }
        self.update(program)
    }

    /// Has every link run a program, each at once.
    pub(super) fn update(&self, program: BorrowedFd<'_>) -> Result<(), Error> {
        for (interface, link) in &self.0 {
            match sys::link_update(&link.descriptor, program) {
                // The interface is gone.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
                Err(error) => {
                    return Err(Error::kernel(
                        format!("replace the program on {interface}"),
                        error,
                    ));
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

impl Link {
    fn create(
        program: BorrowedFd<'_>,
        interface: &str,
        ifindex: u32,
        mode: AttachMode,
        notices: &mut Vec<String>,
    ) -> Result<Self, Error> {
        let mut refused = None;
        for &mode in mode.tries() {
            match sys::link_create(program, ifindex, mode.flags()) {
                Ok(descriptor) => {
                    if let Some(error) = refused {
                        notices.push(format!(
                            "{interface}: the driver refuses native XDP ({error}), so it runs in generic mode, which is slower"
                        ));
                    }
                    return Ok(Self { descriptor, ifindex, mode });
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EBUSY | libc::EEXIST) => {
                        let there = XdpState::of(ifindex);
                        let by_link = there.as_ref().is_ok_and(XdpState::is_held_by_link);
                        let program =
                            there.map_or_else(|error| error.to_string(), XdpState::describe);
                        let interface = interface.to_owned();
                        return Err(Error::Busy { interface, program, by_link });
                    }
                    Some(libc::EPERM | libc::EACCES) => {
                        return Err(Error::kernel(format!("attach to {interface}"), error));
                    }
                    Some(libc::ENODEV) => return Err(Error::NoInterface(interface.to_owned())),
                    _ => refused = Some(error),
                },
            }
        }
        let source = refused.expect("there is at least one try");
        let interface = interface.to_owned();
        match (mode, source.raw_os_error()) {
            (AttachMode::Native, _) => Err(Error::NoNative { interface, source }),
            (_, Some(libc::EINVAL)) => Err(Error::NoLinks(interface)),
            _ => Err(Error::kernel(format!("attach to {interface}"), source)),
        }
    }
    /// Whether it runs on the interface that has that index in this network namespace: a link that
    /// was taken over may belong to another namespace, with an interface of the same index.
    fn is_on(&self, interface: &str, ifindex: u32) -> Result<bool, Error> {
        if self.ifindex != ifindex {
            return Ok(false);
        }
        let there = XdpState::of(ifindex)
            .map_err(|error| Error::kernel(format!("ask what {interface} runs"), error))?;
        Ok(there.program_id == info(interface, &self.descriptor)?.program_id)
    }

    fn attached(&self, interface: &str) -> Attached {
        Attached { interface: interface.to_owned(), ifindex: self.ifindex, mode: self.mode }
    }
}

fn info(interface: &str, link: &OwnedFd) -> Result<sys::LinkInfo, Error> {
    sys::link_info(link)
        .map_err(|error| Error::kernel(format!("describe the link to {interface}"), error))
}

/// The index of an interface in this network namespace.
fn interface_index(interface: &str) -> Result<u32, Error> {
    let unknown = || Error::NoInterface(interface.to_owned());
    let name = CString::new(interface).map_err(|_| unknown())?;
    // SAFETY: a string that ends in 0.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENODEV) => Err(unknown()),
            error => Err(Error::kernel(format!("find the interface {interface}"), error)),
        },
        index => Ok(index),
    }
}
