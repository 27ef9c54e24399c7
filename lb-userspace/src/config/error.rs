//! What is wrong with a config, for people and for programs.

use std::fmt;

use serde::Serialize;
use thiserror::Error;

/// What sort of mistake it is. The words are an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The file can't be read.
    Unreadable,
    /// It isn't TOML.
    Syntax,
    /// A key that doesn't exist in its section.
    UnknownKey,
    /// A key that must be there.
    MissingKey,
    /// A value of another type.
    WrongType,
    /// A value of the right type that isn't allowed.
    BadValue,
    /// Something that may be there once is there again.
    Duplicate,
    /// Values that are allowed alone and can't work together.
    Impossible,
    /// A word that xlb knows and this version can't do.
    Unsupported,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    /// The file; `None` for input that came over the API.
    pub file: Option<String>,
    /// Line in the file, from 1.
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: Option<usize>,
    /// The key's path, such as `service[0] "web".backend[2].address`; empty where the file as a
    /// whole is meant.
    pub key: String,
    /// What sort of mistake.
    pub kind: ErrorKind,
    /// What was found.
    pub message: String,
    /// What is allowed, or what to do.
    pub help: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
            if let (Some(line), Some(column)) = (self.line, self.column) {
                write!(f, "{line}:{column}:")?;
            }
            f.write_str(" ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

/// Every mistake of one input, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", self.render())]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// For people: a block each, and the count at the end.
    pub fn render(&self) -> String {
        use fmt::Write as _;
        let mut out = String::new();
        for error in &self.0 {
            // Writing into a String can't fail.
            let _ = writeln!(out, "{error}");
        }
        let count = self.0.len();
        let _ = write!(out, "{count} error{}", if count == 1 { "" } else { "s" });
        out
    }
}

/// A mistake in one value, before it is known where that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub kind: ErrorKind,
    pub message: String,
    /// `None` falls back to what the key's table allows.
    pub help: Option<String>,
}

impl Fault {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), help: None }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::BadValue, message)
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The mistakes found so far, each with its key and its place: the byte where it starts.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<(Option<usize>, String, Fault)>);

impl Faults {
    pub(super) fn add(&mut self, at: Option<usize>, key: impl Into<String>, fault: Fault) {
        self.0.push((at, key.into(), fault));
    }

    /// `value`, if nothing was found wrong. A missing value always comes with a fault that says
    /// why.
    pub(super) fn settle<T>(
        self,
        value: Option<T>,
        source: Option<(&str, &str)>,
    ) -> Result<T, ConfigErrors> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self.locate(source)),
        }
    }

    /// Turns places into lines and columns. `source` is the file's name and text.
    fn locate(mut self, source: Option<(&str, &str)>) -> ConfigErrors {
        debug_assert!(!self.0.is_empty(), "a value is missing and nobody said why");
        self.0.sort_by_key(|(at, ..)| *at);
        let lines = source.map(|(_, text)| Lines::new(text));
        let locate = |at: Option<usize>| Some(lines.as_ref()?.place(at?));
        let mut errors: Vec<ConfigError> = self
            .0
            .into_iter()
            .map(|(at, key, fault)| {
                let place = locate(at);
                ConfigError {
                    file: source.map(|(file, _)| file.to_owned()),
                    line: place.map(|(line, _)| line),
                    column: place.map(|(_, column)| column),
                    key,
                    kind: fault.kind,
                    message: fault.message,
                    help: fault.help,
                }
            })
            .collect();
        drop_consequences(&mut errors);
        ConfigErrors(errors)
    }
}

/// A syntax error hides what stands in its line and perhaps whole keys: what they seem to lack
/// is not said.
fn drop_consequences(errors: &mut Vec<ConfigError>) {
    let broken: Vec<_> = errors
        .iter()
        .filter(|error| error.kind == ErrorKind::Syntax)
        .map(|error| error.line)
        .collect();
    if !broken.is_empty() {
        errors.retain(|error| {
            error.kind == ErrorKind::Syntax
                || error.kind != ErrorKind::MissingKey && !broken.contains(&error.line)
        });
    }
}

/// Where the lines of a text start.
struct Lines<'a> {
    text: &'a [u8],
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let text = text.as_bytes();
        let newlines = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let starts = [0].into_iter().chain(newlines.map(|(index, _)| index + 1)).collect();
        Self { text, starts }
    }

    /// Line and column, from 1, of a byte; the column counts characters.
    fn place(&self, at: usize) -> (usize, usize) {
        let at = at.min(self.text.len());
        // The first start is 0, so one is always at or before `at`.
        let line = self.starts.partition_point(|&start| start <= at);
        let before = &self.text[self.starts[line - 1]..at];
        // Continuation bytes of UTF-8 belong to the character before.
        let characters = before.iter().filter(|&&byte| byte & 0xc0 != 0x80).count();
        (line, characters + 1)
    }
}
