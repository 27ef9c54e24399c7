//! The interfaces that packets come in by.

use super::Agent;
use crate::{
    api::{Cause, EventKind, News},
    config::{Config, XdpMode},
    dataplane::{AttachMode, Attached},
    network::InterfaceChange,
};

impl Agent {
    /// Attaches to every configured interface, and detaches from others that a former agent left.
    ///
    /// # Errors
    /// The first that can't be attached to; then all are as before.
    pub(super) fn attach_configured(&mut self) -> anyhow::Result<()> {
        let before = self.plane.attached()?;
        let config = self.config.clone();
        self.attach_wanted(&config, &before, &[]).map_err(anyhow::Error::msg)?;
        self.attach_since(&[], Cause::Config);
        Ok(())
    }

    /// Attaches to every interface of a config. One of `tolerated` that wasn't attached to before
    /// may go on so.
    ///
    /// # Errors
    /// Why another can't be attached to; then all are as `before`.
    pub(super) fn attach_wanted(
        &mut self,
        config: &Config,
        before: &[Attached],
        tolerated: &[String],
    ) -> Result<(), String> {
        for interface in &config.interfaces {
            let was_attached = before.iter().any(|attached| attached.interface == *interface);
            match self.plane.attach(interface, mode(config)) {
                Ok(_) => {}
                Err(_) if !was_attached && tolerated.contains(interface) => {}
                Err(error) => {
                    self.restore(before);
                    return Err(format!("can't serve on {interface}: {error}"));
                }
            }
        }
        Ok(())
    }

    /// Attaches where and how it was `before`, and nowhere else.
    pub(super) fn restore(&mut self, before: &[Attached]) {
        let now = self.plane.attached().unwrap_or_default();
        for Attached { interface, .. } in &now {
            if !before.iter().any(|attached| attached.interface == *interface)
                && let Err(error) = self.plane.detach(interface)
            {
                tracing::error!("{error}");
            }
        }
        for attached in before.iter().filter(|attached| !now.contains(attached)) {
            if let Err(error) = self.plane.attach(&attached.interface, attached.mode.into()) {
                tracing::error!("{} can't be served on as before: {error}", attached.interface);
            }
        }
    }

    /// Attaches to what it can, and keeps why not for the rest.
    pub(super) fn attach_all(&mut self) {
        let before = self.plane.attached().unwrap_or_default();
        self.attach_since(&before, Cause::Network);
    }

    /// The same, and tells of everything that is attached otherwise than `before`. What is not in
    /// the config any more stays attached until all that is in it is.
    pub(super) fn attach_since(&mut self, before: &[Attached], cause: Cause) {
        self.detached.retain(|interface, _| self.config.interfaces.contains(interface));
        for interface in self.config.interfaces.clone() {
            match self.plane.attach(&interface, mode(&self.config)) {
                Ok(attached) => {
                    self.detached.remove(&interface);
                    if !before.contains(&attached) {
                        self.attached_event(before, &attached, cause);
                    }
                }
                Err(error) => {
                    let why = error.to_string();
                    if self.detached.get(&interface) != Some(&why) {
                        let told = format!("{interface}: {why}");
                        let news = News::new(EventKind::Detached, cause, told);
                        self.event(news.is(format_args!("{interface} detached")));
                    }
                    self.detached.insert(interface, why);
                }
            }
        }
        if self.detached.is_empty() {
            self.detach_others(cause);
        }
    }

    fn detach_others(&mut self, cause: Cause) {
        let attached = self.plane.attached().unwrap_or_default();
        for Attached { interface, mode, .. } in attached {
            if self.config.interfaces.contains(&interface) {
                continue;
            }
            match self.plane.detach(&interface) {
                Ok(()) => {
                    let told = format!("{interface} is not in the config any more");
                    let news = News::new(EventKind::Detached, cause, told);
                    self.event(news.became(
                        format_args!("{interface} {mode}"),
                        format_args!("{interface} detached"),
                    ));
                }
                Err(error) => tracing::error!("{error}"),
            }
        }
    }

    /// Attaches again where somebody detached the program, or where it couldn't be attached.
    pub(super) fn look_after_links(&mut self) {
        let attached = match self.plane.attached() {
            Ok(attached) => attached,
            Err(error) => return tracing::error!("{error}"),
        };
        for interface in self.config.interfaces.clone() {
            let is_attached = attached.iter().any(|attached| attached.interface == interface);
            if is_attached || self.detached.contains_key(&interface) {
                continue;
            }
            let why = "the program is not attached any more, and not by xlb".to_owned();
            let told = format!("{interface}: {why}");
            let news = News::new(EventKind::Detached, Cause::Network, told);
            self.event(news.is(format_args!("{interface} detached")));
            self.detached.insert(interface, why);
        }
        if !self.detached.is_empty() {
            self.attach_since(&attached, Cause::Network);
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

    fn attached_event(&self, before: &[Attached], attached: &Attached, cause: Cause) {
        let Attached { interface, mode, .. } = attached;
        let former = before.iter().find(|former| former.interface == *interface);
        let former = former.map_or_else(|| "detached".to_owned(), |former| former.mode.to_string());
        let told = format!("packets of {interface} are balanced ({mode} XDP)");
        let news = News::new(EventKind::Attached, cause, told);
        self.event(
            news.became(format_args!("{interface} {former}"), format_args!("{interface} {mode}")),
        );
    }
}

fn mode(config: &Config) -> AttachMode {
    match config.xdp_mode {
        XdpMode::Auto => AttachMode::Auto,
        XdpMode::Native => AttachMode::Native,
        XdpMode::Generic => AttachMode::Generic,
    }
}
