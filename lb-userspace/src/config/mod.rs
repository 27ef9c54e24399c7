//! The config: from a file, or a piece of it from the API, to values that are checked.
//!
//! Every mistake of an input is found in one run. A file and the API's JSON become the same tree
//! of nodes and go through the same checks; the keys stand in one table, from which unknown ones
//! are told and the reference is written.

mod asked;
pub mod check;
mod checks;
mod claims;
mod discovery;
mod error;
mod fragment;
mod fullnat;
mod health;
mod keys;
mod limits;
mod live;
mod node;
mod prime;
mod read;
mod reference;
mod service;
mod shown;
mod spec;
mod top;
mod types;
mod value;

#[cfg(test)]
mod tests;

use std::{fs::File, io::Read as _, ops::Range, path::Path};

use toml::de::DeTable;

#[cfg(test)]
pub use checks::StatusRange;
pub use checks::{
    ActiveCheck, Alpn, DnsProbe, ExpectedHeader, GrpcProbe, HealthCheck, HttpProbe, Method,
    Payload, Probe, Tls, Via,
};
pub use claims::Claims;
pub use error::{ConfigErrors, ErrorKind};
pub use fragment::{Format, Refused, fragment, join};
pub use limits::Room;
pub use reference::reference;
pub use spec::{BackendSpec, HealthSpec, ServiceSpec, backend_from_json, service_from_json};
pub use types::{
    AgentCheck, BackendConfig, Config, DiscoveryConfig, DiscoverySource, DnsRecord, DnsSource,
    DoorTls, Fullnat, Hook, NextHop, RegisterDoor, ServiceConfig, XdpMode,
};
pub use value::{is_ring_size, parse_duration};

use error::{Fault, Faults};
use node::Node;

/// Longest file that is read: some hundred thousand backends.
pub const MAX_BYTES: u64 = 64 << 20;

/// Syntax errors that are told one by one: a file with more is another sort of file.
const SYNTAX_ERRORS_MAX: usize = 20;

/// Reads and checks a file.
///
/// # Errors
/// The file can't be read, isn't TOML in UTF-8, or says something that isn't allowed: every
/// mistake, in the file's order.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let file_name = path.display().to_string();
    let unreadable = |message: String, help: &str| {
        let mut faults = Faults::default();
        faults.add(None, "", Fault::new(ErrorKind::Unreadable, message).help(help));
        faults.settle(None, Some((&file_name, "")))
    };
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return unreadable(
            format!("can't read the config: {error}"),
            "give the path of a TOML file that this user may read",
        );
    }
    if bytes.len() as u64 > MAX_BYTES {
        return unreadable(
            format!("the config is longer than {} MiB", MAX_BYTES >> 20),
            "give the path of a TOML file",
        );
    }
    match String::from_utf8(bytes) {
        Ok(text) => parse(&text, &file_name),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes());
            let mut faults = Faults::default();
            let fault = Fault::new(ErrorKind::Syntax, "this byte is not UTF-8");
            faults.add(Some(at), "", fault.help("save the file as UTF-8"));
            faults.settle(None, Some((&file_name, &text)))
        }
    }
}

/// Checks a config's text; `file_name` is for the errors.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, file_name: &str) -> Result<Config, ConfigErrors> {
    let mut faults = Faults::default();
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    let (told, more) = syntax_errors.split_at(syntax_errors.len().min(SYNTAX_ERRORS_MAX));
    let span = |error: &toml::de::Error| error.span().unwrap_or(text.len()..text.len());
    for error in told {
        let (at, key, fault) = syntax_fault(error.message(), text, span(error));
        faults.add(Some(at), key, fault);
    }
    if let Some(next) = more.first() {
        let told = match more.len() - 1 {
            0 => "not TOML".to_owned(),
            others => format!("not TOML, here and in {others} places more"),
        };
        let is_config = ["service", "interfaces"].map(|key| document.get_ref().contains_key(key));
        let help = match is_config.contains(&true) {
            true => "mend the first ones: the others may follow from them",
            false => "give the path of a TOML file",
        };
        faults.add(Some(span(next).start), "", Fault::new(ErrorKind::Syntax, told).help(help));
        if !is_config.contains(&true) {
            return faults.settle(None, Some((file_name, text)));
        }
    }
    let root = Node::from_toml_table(document.get_ref(), 0);
    let config = top::check(&root, &mut faults);
    faults.settle(config, Some((file_name, text)))
}

/// The place, the key and the fault behind a message of the TOML parser.
fn syntax_fault<'a>(message: &str, text: &'a str, span: Range<usize>) -> (usize, &'a str, Fault) {
    if message == "duplicate key" {
        let fault = Fault::new(ErrorKind::Duplicate, message).help("say each key once");
        return (span.start, text.get(span).unwrap_or_default(), fault);
    }
    // The parser may blame the middle of an address, such as 10.0.0.1: tell the whole word.
    let in_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-:/*".contains(byte);
    let span = span.start.min(text.len())..span.end;
    let (before, behind) = text.as_bytes().split_at(span.start);
    let start = span.start - before.iter().rev().take_while(|byte| in_word(byte)).count();
    let end = span.start + behind.iter().take_while(|byte| in_word(byte)).count();
    let quoted = start.checked_sub(1).is_some_and(|at| b"\"'".contains(&text.as_bytes()[at]));
    let value =
        !quoted && (message.starts_with("invalid ") || message.starts_with("string values must"));
    match text.get(start..end) {
        Some(word) if value && !word.is_empty() && end >= span.end => {
            let fault = Fault::new(ErrorKind::Syntax, format!("{word} is not a value of TOML"));
            (start, "", fault.help(format!("text stands in quotes: \"{word}\"")))
        }
        _ => (span.start, "", Fault::new(ErrorKind::Syntax, format!("not TOML: {message}"))),
    }
}
