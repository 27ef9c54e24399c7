//! What happened, numbered, for as long as there is room.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use clap::ValueEnum;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Cause, News};

/// Events that are kept; the oldest go first.
const CAPACITY: usize = 4096;
/// Bytes of a message that are kept.
const MESSAGE_MAX: usize = 8 << 10;

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// From 1 on, one more for each since the agent started.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// What sort of event.
    pub kind: EventKind,
    /// What brought it about.
    #[serde(default)]
    pub cause: Cause,
    /// Who, where somebody is known: `uid 1000 (ada), pid 4711`.
    #[serde(default)]
    pub actor: Option<String>,
    /// Name of the service that it is about.
    pub service: Option<String>,
    /// Address of the backend that it is about.
    pub backend: Option<String>,
    /// What was before, in short words for programs, several with a comma between: `weight 7`.
    #[serde(default)]
    pub from: Option<String>,
    /// What is now.
    #[serde(default)]
    pub to: Option<String>,
    /// What happened, for people.
    pub message: String,
}

impl Event {
    /// It in one line that says of what it is: `web 10.2.0.11 is down: …`.
    pub fn sentence(&self) -> String {
        let subject = [&self.service, &self.backend];
        let subject: Vec<_> = subject.into_iter().flatten().map(String::as_str).collect();
        let state = match self.kind {
            EventKind::BackendDown | EventKind::ServiceDown => " is down",
            EventKind::BackendUp | EventKind::ServiceUp => " is up",
            _ => "",
        };
        match subject.is_empty() {
            true => self.message.clone(),
            false => format!("{}{state}: {}", subject.join(" "), self.message),
        }
    }
}

/// Sorts of events. The words are an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum EventKind {
    /// The agent began to serve.
    Started,
    /// The agent is about to end.
    Stopping,
    /// A reload of the config took effect.
    Reloaded,
    /// A reload changed nothing.
    ReloadFailed,
    /// The program was attached to an interface.
    Attached,
    /// The program is not attached to an interface any more, or could not be.
    Detached,
    /// A service was added.
    ServiceAdded,
    /// A service was changed.
    ServiceChanged,
    /// A service was removed.
    ServiceRemoved,
    /// No backend takes a service's new flows: they are dropped.
    ServiceDown,
    /// Some backend takes them again.
    ServiceUp,
    /// A backend was added.
    BackendAdded,
    /// A backend's weight or way was changed.
    BackendChanged,
    /// A backend was removed.
    BackendRemoved,
    /// A backend takes no new flows from now on.
    BackendDraining,
    /// A draining backend has no flows any more.
    BackendDrained,
    /// A removed backend's last flow ended.
    BackendLeft,
    /// A backend takes new flows again.
    BackendUndrained,
    /// A backend's check passed.
    BackendUp,
    /// A backend's check failed.
    BackendDown,
    /// An agent on a backend wants something else of it.
    BackendAgent,
    /// A backend fails too often, and is held back.
    BackendDamped,
    /// A backend that was held back takes part again.
    BackendUndamped,
    /// Too few backends are healthy: failed ones are used as well.
    PanicBegan,
    /// Enough backends are healthy again.
    PanicEnded,
    /// No other backend lives: backups serve.
    BackupActive,
    /// Others serve again, backups wait.
    BackupIdle,
    /// A backend's next hop is known.
    NextHopResolved,
    /// A backend's next hop is not known any more.
    NextHopLost,
    /// Under `fullnat`, most ports toward a backend are taken.
    PortsScarce,
    /// Under `fullnat`, enough ports toward a backend are free again.
    PortsEased,
    /// Under `fullnat`, the table of flows is nearly full.
    FlowTableScarce,
    /// Under `fullnat`, the table of flows has room again.
    FlowTableEased,
    /// Flows under `fullnat` were ended.
    FlowsKilled,
    /// A source of backends can't be asked, or what it tells isn't taken.
    DiscoveryFailed,
    /// A source of backends answers again.
    DiscoveryRecovered,
    /// Something that a newer agent told.
    #[serde(other)]
    #[value(skip)]
    Unknown,
}

impl EventKind {
    /// Its word.
    pub fn word(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(word)) => word,
            _ => format!("{self:?}"),
        }
    }

    /// Whether the operator should look.
    pub fn is_trouble(self) -> bool {
        matches!(
            self,
            Self::ServiceDown
                | Self::BackendDown
                | Self::DiscoveryFailed
                | Self::BackendDamped
                | Self::PanicBegan
                | Self::BackupActive
                | Self::NextHopLost
                | Self::PortsScarce
                | Self::FlowTableScarce
                | Self::Detached
                | Self::ReloadFailed
        )
    }
}

/// Events from a number on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventPage {
    /// In order.
    pub events: Vec<Event>,
    /// The number to ask `since` for those after.
    pub last: u64,
    /// How many that were asked for are forgotten.
    pub missed: u64,
}

/// The log, shared between the agent that writes and those who read.
#[derive(Clone, Debug)]
pub struct EventLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kept: Mutex<Kept>,
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Event>,
    totals: BTreeMap<EventKind, u64>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self(Arc::new(Inner { kept: Mutex::default(), last: watch::Sender::new(0) }))
    }
}

impl EventLog {
    /// Adds an event, and gives it as it is kept.
    pub fn push(&self, at: SystemTime, news: News) -> Event {
        let News { kind, cause, actor, service, backend, from, to, message } = news;
        // Only a clock that stands before the year -9999 or after 9999 can't be told.
        let at = Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH);
        let (from, to, message) = (from.map(shortened), to.map(shortened), shortened(message));
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let number = *self.0.last.borrow() + 1;
        let event = Event { number, at, kind, cause, actor, service, backend, from, to, message };
        if kept.events.len() == CAPACITY {
            kept.events.pop_front();
        }
        kept.events.push_back(event.clone());
        *kept.totals.entry(kind).or_default() += 1;
        self.0.last.send_replace(number);
        event
    }

    /// The number of the last event; 0 before the first.
    pub fn last(&self) -> u64 {
        *self.0.last.borrow()
    }

    /// How many there were of each kind that this agent knows.
    pub fn totals(&self) -> Vec<(EventKind, u64)> {
        let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let total = |kind: &EventKind| (*kind, kept.totals.get(kind).copied().unwrap_or(0));
        EventKind::value_variants().iter().map(total).collect()
    }

    /// What came after event number `since`; 0 is all. A number that was never given, such as one
    /// of an earlier run of the agent, counts as 0.
    pub fn since(&self, since: u64) -> EventPage {
        let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let last = *self.0.last.borrow();
        let since = if since > last { 0 } else { since };
        let oldest = kept.events.front().map_or(last + 1, |event| event.number);
        EventPage {
            events: kept.events.iter().filter(|event| event.number > since).cloned().collect(),
            last,
            missed: oldest.saturating_sub(since + 1),
        }
    }

    /// Waits until there is an event after number `since`.
    pub async fn wait(&self, since: u64) {
        let mut last = self.0.last.subscribe();
        // Fails only when the sender is gone, which `self` holds.
        let _ = last.wait_for(|last| *last != since).await;
    }
}

/// A message of no more than about [`MESSAGE_MAX`] bytes: whole lines, where it has several.
fn shortened(mut message: String) -> String {
    if message.len() <= MESSAGE_MAX {
        return message;
    }
    let mut end = MESSAGE_MAX;
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let rest = match message[..end].rfind('\n') {
        Some(newline) => {
            let lines = message[newline + 1..].lines().count();
            message.truncate(newline);
            format!("\nand {lines} more lines")
        }
        None => {
            let bytes = message.len() - end;
            message.truncate(end);
            format!(" and {bytes} more bytes")
        }
    };
    message + &rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A config with thousands of mistakes, again and again, fills no memory.
    #[test]
    fn long_messages_are_cut() {
        let log = EventLog::default();
        let kept = |message: String| {
            let length = message.len();
            let news = News::new(EventKind::ReloadFailed, Cause::Config, message);
            log.push(SystemTime::now(), news);
            let kept = log.since(0).events.pop().unwrap().message;
            assert!(kept.len() < MESSAGE_MAX + 40 && kept.len() <= length, "{}", kept.len());
            kept
        };
        let lines: String = (0..10_000).map(|number| format!("error {number:04}\n")).collect();
        let cut = kept(lines);
        let (last, rest) = cut.rsplit_once('\n').unwrap();
        let shown = last.lines().count();
        assert_eq!(rest, format!("and {} more lines", 10_000 - shown));
        assert!(last.ends_with(&format!("error {:04}", shown - 1)), "{cut}");
        assert!(kept("\u{e4}".repeat(9_000)).ends_with("\u{e4} and 9808 more bytes"));
        assert_eq!(kept("x".repeat(MESSAGE_MAX)).len(), MESSAGE_MAX);
    }

    fn push(log: &EventLog) -> u64 {
        log.push(SystemTime::now(), News::new(EventKind::Reloaded, Cause::Config, "")).number
    }

    #[test]
    fn pages_begin_where_they_should() {
        let log = EventLog::default();
        assert_eq!(log.since(0), EventPage::default());
        assert_eq!([push(&log), push(&log), push(&log)], [1, 2, 3]);
        let numbers = |since| log.since(since).events.iter().map(|e| e.number).collect::<Vec<_>>();
        assert_eq!(numbers(0), [1, 2, 3]);
        assert_eq!(numbers(2), [3]);
        assert!(numbers(3).is_empty());
        assert_eq!(numbers(4), [1, 2, 3], "a number of an earlier run");
        assert_eq!(log.since(2).last, 3);
    }

    #[test]
    fn what_is_forgotten_is_counted() {
        let log = EventLog::default();
        for _ in 0..CAPACITY + 10 {
            push(&log);
        }
        let page = log.since(4);
        assert_eq!((page.missed, page.events.len()), (6, CAPACITY));
        assert_eq!(log.since(10).missed, 0);
        assert_eq!(log.since(CAPACITY as u64).missed, 0);
    }

    #[test]
    fn words_are_those_on_the_wire() {
        assert_eq!(EventKind::BackendDown.word(), "backend_down");
        let unknown: EventKind = serde_json::from_str("\"comet\"").unwrap();
        assert_eq!(unknown, EventKind::Unknown);
        for kind in EventKind::value_variants() {
            assert_eq!(kind.to_possible_value().unwrap().get_name(), kind.word());
        }
    }

    #[test]
    fn a_line_says_of_what_it_is() {
        let log = EventLog::default();
        let line = |news| log.push(SystemTime::now(), news).sentence();
        let news = |kind| {
            let key: crate::model::BackendKey = "10.0.0.1".parse().unwrap();
            News::new(kind, Cause::Health, "refused").about("web", key)
        };
        assert_eq!(line(news(EventKind::BackendDown)), "web 10.0.0.1 is down: refused");
        assert_eq!(line(news(EventKind::BackendChanged)), "web 10.0.0.1: refused");
        let started = News::new(EventKind::Started, Cause::Agent, "it serves");
        assert_eq!(line(started), "it serves");
        assert!(EventKind::ReloadFailed.is_trouble() && !EventKind::BackendUp.is_trouble());
    }

    #[test]
    fn each_kind_is_counted() {
        let log = EventLog::default();
        for _ in 0..CAPACITY + 1 {
            push(&log);
        }
        let totals: BTreeMap<_, _> = log.totals().into_iter().collect();
        assert_eq!(totals[&EventKind::Reloaded], CAPACITY as u64 + 1, "also what is forgotten");
        assert_eq!(totals[&EventKind::BackendDown], 0);
        assert!(!totals.contains_key(&EventKind::Unknown));
    }

    /// What an agent of an earlier version says.
    #[test]
    fn an_event_without_the_newer_fields_is_read() {
        let old = r#"{"number":1,"at":"2026-01-01T00:00:00Z","kind":"started","service":null,"backend":null,"message":"x"}"#;
        let event: Event = serde_json::from_str(old).unwrap();
        assert_eq!((event.cause, event.from, event.actor), (Cause::Unknown, None, None));
    }

    #[tokio::test]
    async fn waiting_ends_with_the_event() {
        let log = EventLog::default();
        let waiting = tokio::spawn({
            let log = log.clone();
            async move {
                log.wait(1).await;
                log.since(1).events.len()
            }
        });
        push(&log);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        push(&log);
        assert_eq!(waiting.await.unwrap(), 1);
    }
}
