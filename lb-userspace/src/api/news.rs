//! An event in the making: what happened, through what, by whom, from what to what.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

use super::{Actor, EventKind};
use crate::model::BackendKey;

/// What brought an event about. The words are an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The config file, at the start or at a reload.
    Config,
    /// Somebody at the control API.
    Api,
    /// A health check.
    Health,
    /// What backends, or agents on them, report.
    Load,
    /// A source that backends are discovered by.
    Discovery,
    /// Routes, neighbours and interfaces of the host.
    Network,
    /// What clients' packets show: flows that ended, backends that stand out.
    Traffic,
    /// The agent itself.
    Agent,
    /// Something that another version of the agent told, or left out.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Cause {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Api => "api",
            Self::Health => "health",
            Self::Load => "load",
            Self::Discovery => "discovery",
            Self::Network => "network",
            Self::Traffic => "traffic",
            Self::Agent => "agent",
            Self::Unknown => "unknown",
        }
    }
}

/// An event that has no number and no time yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// What sort of event.
    pub kind: EventKind,
    /// What brought it about.
    pub cause: Cause,
    /// Who.
    pub actor: Option<String>,
    /// Name of the service that it is about.
    pub service: Option<String>,
    /// Address of the backend that it is about.
    pub backend: Option<String>,
    /// What was before, for programs.
    pub from: Option<String>,
    /// What is now, for programs.
    pub to: Option<String>,
    /// What happened, for people.
    pub message: String,
}

impl News {
    /// Something that happened, to the agent as a whole.
    pub fn new(kind: EventKind, cause: Cause, message: impl Into<String>) -> Self {
        Self {
            kind,
            cause,
            actor: None,
            service: None,
            backend: None,
            from: None,
            to: None,
            message: message.into(),
        }
    }

    /// To a service, or to a backend of it.
    pub fn about(
        mut self,
        service: impl Into<String>,
        backend: impl Into<Option<BackendKey>>,
    ) -> Self {
        self.service = Some(service.into());
        self.backend = backend.into().map(|key| key.to_string());
        self
    }

    /// By somebody.
    pub fn by(mut self, actor: &Actor) -> Self {
        self.actor = actor.name().map(str::to_owned);
        self
    }

    /// Something was one thing and is another; after a former such, besides that.
    pub fn became(self, from: impl Display, to: impl Display) -> Self {
        self.was(from).is(to)
    }

    /// What is no more.
    pub fn was(mut self, from: impl Display) -> Self {
        self.from = Some(listed(self.from, from));
        self
    }

    /// What is new.
    pub fn is(mut self, to: impl Display) -> Self {
        self.to = Some(listed(self.to, to));
        self
    }
}

fn listed(list: Option<String>, item: impl Display) -> String {
    list.map_or_else(|| item.to_string(), |list| format!("{list}, {item}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_on_the_wire() {
        for cause in [
            Cause::Config,
            Cause::Api,
            Cause::Health,
            Cause::Load,
            Cause::Discovery,
            Cause::Network,
            Cause::Traffic,
            Cause::Agent,
            Cause::Unknown,
        ] {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.word());
        }
        assert_eq!(serde_json::from_str::<Cause>("\"comet\"").unwrap(), Cause::Unknown);
    }

    #[test]
    fn several_changes_stand_side_by_side() {
        let news = News::new(EventKind::BackendChanged, Cause::Api, "two changes")
            .about("web", "10.0.0.1".parse::<BackendKey>().unwrap())
            .became("weight 7", "weight 9")
            .became("serving", "draining");
        assert_eq!(news.from.as_deref(), Some("weight 7, serving"));
        assert_eq!(news.to.as_deref(), Some("weight 9, draining"));
        assert_eq!(news.backend.as_deref(), Some("10.0.0.1"));
    }
}
