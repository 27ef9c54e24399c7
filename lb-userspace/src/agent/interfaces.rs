//! The interfaces that packets come in by.

use anyhow::Context as _;

use super::Agent;
use crate::{
    api::EventKind,
    config::XdpMode,
    dataplane::{AttachMode, Attached},
    network::InterfaceChange,
};

impl Agent {
    /// Attaches to every configured interface, and detaches from others that a former agent left.
    ///
    /// # Errors
    /// The first that can't be attached to. Those that this call attached to are detached again.
    pub(super) fn attach_configured(&mut self) -> anyhow::Result<()> {
        let before: Vec<String> =
            self.plane.attached()?.into_iter().map(|attached| attached.interface).collect();
        for interface in self.config.interfaces.clone() {
            match self.plane.attach(&interface, self.mode()) {
                Ok(attached) => self.attached_event(&attached),
                Err(error) => {
                    let fresh: Vec<String> =
                        self.plane.attached()?.into_iter().map(|a| a.interface).collect();
                    for interface in fresh.iter().filter(|name| !before.contains(name)) {
                        self.plane.detach(interface)?;
                    }
                    return Err(error).context(format!("can't serve on {interface}"));
                }
            }
        }
        self.detach_others();
        Ok(())
    }

    /// Attaches to what it can, and keeps why not for the rest.
    pub(super) fn attach_all(&mut self) {
        for interface in self.config.interfaces.clone() {
            match self.plane.attach(&interface, self.mode()) {
                Ok(attached) => {
                    if self.detached.remove(&interface).is_some() {
                        self.attached_event(&attached);
                    }
                }
                Err(error) => {
                    let why = error.to_string();
                    if self.detached.get(&interface) != Some(&why) {
                        self.event(EventKind::Detached, None, format!("{interface}: {why}"));
                    }
                    self.detached.insert(interface, why);
                }
            }
        }
        self.detach_others();
    }

    fn detach_others(&mut self) {
        self.detached.retain(|interface, _| self.config.interfaces.contains(interface));
        let attached = self.plane.attached().unwrap_or_default();
        for Attached { interface, .. } in attached {
            if self.config.interfaces.contains(&interface) {
                continue;
            }
            match self.plane.detach(&interface) {
                Ok(()) => self.event(
                    EventKind::Detached,
                    None,
                    format!("{interface} is not in the config any more"),
                ),
                Err(error) => tracing::error!("{error}"),
            }
        }
    }

    /// Follows interfaces that come and go.
    pub(super) fn interfaces_changed(&mut self) {
        let now = self.interfaces.borrow_and_update().clone();
        let changes = now.changes_since(&self.known_interfaces, &self.config.interfaces);
        self.known_interfaces = now;
        let mut attach = false;
        for change in changes {
            match change {
                InterfaceChange::Appeared(interface) => {
                    tracing::info!("interface {} is there", interface.name);
                    attach = true;
                    self.detached.entry(interface.name).or_insert_with(|| "not yet".to_owned());
                }
                InterfaceChange::Disappeared(interface) => {
                    attach = true;
                    tracing::warn!("interface {} is gone", interface.name);
                }
                InterfaceChange::Changed(_) => {}
            }
        }
        if attach {
            self.attach_all();
        }
    }

    fn mode(&self) -> AttachMode {
        match self.config.xdp_mode {
            XdpMode::Auto => AttachMode::Auto,
            XdpMode::Native => AttachMode::Native,
            XdpMode::Generic => AttachMode::Generic,
        }
    }

    fn attached_event(&self, attached: &Attached) {
        let message =
            format!("packets of {} are balanced ({} XDP)", attached.interface, attached.mode);
        self.event(EventKind::Attached, None, message);
    }
}
