//! What happened, numbered, for as long as there is room.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

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
    /// Name of the service that it is about.
    pub service: Option<String>,
    /// Address of the backend that it is about.
    pub backend: Option<String>,
    /// What happened, for people.
    pub message: String,
}

/// Sorts of events. The words are an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// A backend's next hop is known.
    NextHopResolved,
    /// A backend's next hop is not known any more.
    NextHopLost,
    /// Something that a newer agent told.
    #[serde(other)]
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
        matches!(self, Self::BackendDown | Self::NextHopLost | Self::Detached | Self::ReloadFailed)
    }

    /// An event in one line that says of what it is: `web 10.2.0.11 is down: …`.
    pub fn sentence(self, service: Option<&str>, backend: Option<&str>, message: &str) -> String {
        let subject: Vec<_> = service.into_iter().chain(backend).collect();
        let state = match self {
            Self::BackendDown => " is down",
            Self::BackendUp => " is up",
            _ => "",
        };
        match subject.is_empty() {
            true => message.to_owned(),
            false => format!("{}{state}: {message}", subject.join(" ")),
        }
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
    events: Mutex<VecDeque<Event>>,
    last: watch::Sender<u64>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self(Arc::new(Inner { events: Mutex::default(), last: watch::Sender::new(0) }))
    }
}

impl EventLog {
    /// Adds an event and gives its number. `subject` is the service and the backend.
    pub fn push(
        &self,
        at: SystemTime,
        kind: EventKind,
        subject: (Option<String>, Option<String>),
        message: String,
    ) -> u64 {
        let message = shortened(message);
        let mut events = self.0.events.lock().unwrap_or_else(PoisonError::into_inner);
        let number = *self.0.last.borrow() + 1;
        // Only a clock that stands before the year -9999 or after 9999 can't be told.
        let at = Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH);
        let (service, backend) = subject;
        if events.len() == CAPACITY {
            events.pop_front();
        }
        events.push_back(Event { number, at, kind, service, backend, message });
        self.0.last.send_replace(number);
        number
    }

    /// What came after event number `since`; 0 is all. A number that was never given, such as one
    /// of an earlier run of the agent, counts as 0.
    pub fn since(&self, since: u64) -> EventPage {
        let events = self.0.events.lock().unwrap_or_else(PoisonError::into_inner);
        let last = *self.0.last.borrow();
        let since = if since > last { 0 } else { since };
        let oldest = events.front().map_or(last + 1, |event| event.number);
        EventPage {
            events: events.iter().filter(|event| event.number > since).cloned().collect(),
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
            log.push(SystemTime::now(), EventKind::ReloadFailed, (None, None), message);
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
        log.push(SystemTime::now(), EventKind::Reloaded, (None, None), String::new())
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
    }

    #[test]
    fn a_line_says_of_what_it_is() {
        let line = |kind: EventKind| kind.sentence(Some("web"), Some("10.0.0.1"), "refused");
        assert_eq!(line(EventKind::BackendDown), "web 10.0.0.1 is down: refused");
        assert_eq!(line(EventKind::BackendChanged), "web 10.0.0.1: refused");
        assert_eq!(EventKind::Started.sentence(None, None, "it serves"), "it serves");
        assert!(EventKind::ReloadFailed.is_trouble() && !EventKind::BackendUp.is_trouble());
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
