//! The command line: what is typed becomes a verb, what it says goes to the terminal.
//!
//! Verbs that talk to the agent are done here, over its control socket. Those that do the work
//! themselves are handed to the caller of [`main`]. Exit status: 0 done, 1 failed, 2 wrong input.

mod args;
mod call;
mod command;
mod pages;
mod reference;
mod show;
pub mod table;
#[cfg(test)]
mod tests;
mod words;

use std::{
    ffi::OsString,
    fmt,
    io::{self, Write},
    process::ExitCode,
};

use clap::FromArgMatches as _;

use args::{Cli, Verb};

use crate::api::{ApiError, Client, ClientError, ErrorKind};

pub use args::{BenchArgs, DecapArgs, Global, Local, RegisterArgs, ReplayArgs, RunArgs};
pub use words::Cidr;

/// Done.
pub const DONE: u8 = 0;
/// Tried and failed.
pub const FAILED: u8 = 1;
/// What was typed, or a file that it names, is wrong.
pub const WRONG_INPUT: u8 = 2;

/// Why what was typed, or a file that it names, is wrong: so the exit status tells.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongInput(pub String);

/// Does what the process was started for. `local` does the verbs that need no agent, writes what
/// they say itself, and gives the exit status.
pub fn main(local: impl FnOnce(Local, &Global) -> anyhow::Result<u8>) -> ExitCode {
    let (mut out, mut err) = (anstream::stdout(), anstream::stderr());
    ExitCode::from(respond(std::env::args_os(), &mut out, &mut err, local))
}

/// [`main`] with its surroundings as arguments. Styled text goes to `out` and `err`: they strip
/// what they can't show.
fn respond(
    words: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    out: &mut impl Write,
    err: &mut impl Write,
    local: impl FnOnce(Local, &Global) -> anyhow::Result<u8>,
) -> u8 {
    let parsed = command::command()
        .try_get_matches_from(words)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(usage) => {
            let text = usage.render();
            // Where even that can't be written, the status still tells.
            let _ = match usage.use_stderr() {
                true => write!(err, "{}", text.ansi()),
                false => write!(out, "{}", text.ansi()),
            };
            return if usage.exit_code() == 0 { DONE } else { WRONG_INPUT };
        }
    };
    let json = cli.global.json;
    let result = match cli.verb {
        Verb::Local(verb) => local(verb, &cli.global).map_err(Failure::from),
        Verb::Remote(verb) => {
            let client = Client::new(&cli.global.socket());
            call::run(verb, &client, &mut Printer { out, json }).map(|()| DONE)
        }
        Verb::Completions { shell } => pages::completions(shell, out).map(|()| DONE),
        Verb::Man { directory } => pages::man(directory.as_deref(), out).map(|()| DONE),
        Verb::Reference { of } => pages::reference(of, out).map(|()| DONE),
    };
    match result {
        Ok(status) => status,
        // `xlb events | head`: whoever read has read enough.
        Err(failure) if failure.reader_left => DONE,
        Err(failure) => {
            let _ = failure.tell(err, json);
            failure.status
        }
    }
}

/// Why a verb didn't do what it should, and the exit status.
#[derive(Debug)]
struct Failure {
    error: ApiError,
    status: u8,
    reader_left: bool,
}

impl Failure {
    /// For people: the error, and what to do. For programs: the API's own form.
    fn tell(&self, err: &mut impl Write, json: bool) -> io::Result<()> {
        if json {
            return writeln!(err, "{}", serde_json::json!({ "error": self.error }));
        }
        let red = table::RED;
        writeln!(err, "{red}error{red:#}: {}", self.error.message)?;
        match &self.error.hint {
            Some(hint) => writeln!(err, "{}", Hint(hint)),
            None => Ok(()),
        }
    }
}

/// A hint, its lines one below the other.
struct Hint<'a>(&'a str);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " help: {}", self.0.replace('\n', "\n       "))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let reader_left = error.chain().any(|cause| {
            let cause = cause.downcast_ref::<io::Error>();
            cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
        });
        let wrong_input = error.chain().any(|cause| cause.is::<WrongInput>());
        let (kind, status) = match wrong_input {
            true => (ErrorKind::Invalid, WRONG_INPUT),
            false => (ErrorKind::Failed, FAILED),
        };
        Self { error: ApiError::new(kind, told(&error)), status, reader_left }
    }
}

/// An error and its causes, without those that it names itself.
fn told(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| match cause.to_string() {
        cause if text.contains(&cause) => text,
        cause if text.is_empty() => cause,
        cause => format!("{text}: {cause}"),
    })
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::from(anyhow::Error::new(error).context("can't write what there is to say"))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused { error, wrong_input } => {
                let status = if wrong_input { WRONG_INPUT } else { FAILED };
                Self { error, status, reader_left: false }
            }
            other => {
                let error = ApiError::new(ErrorKind::Unavailable, other.to_string());
                Self { error, status: FAILED, reader_left: false }
            }
        }
    }
}

/// Where a verb's words go, and in which form.
struct Printer<'a, W> {
    out: &'a mut W,
    json: bool,
}

impl<W: Write> Printer<'_, W> {
    /// Says a value: in one line of JSON, or as `text` that people like.
    fn say<T: serde::Serialize>(
        &mut self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let text = match self.json {
            true => serde_json::to_string(value).map_err(anyhow::Error::new)?,
            false => text(value),
        };
        writeln!(self.out, "{}", text.trim_end())?;
        Ok(self.out.flush()?)
    }
}
