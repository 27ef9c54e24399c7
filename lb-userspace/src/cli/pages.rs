//! Completion scripts and manual pages, from the same tree of verbs.

use std::{io::Write, path::Path};

use anyhow::Context as _;
use clap_complete::Shell;

use super::{Failure, args::Page, command::command, reference};
use crate::config;

/// Writes a shell's completion script.
pub(super) fn completions(shell: Shell, out: &mut impl Write) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "xlb", &mut script);
    Ok(out.write_all(&script)?)
}

/// Writes the first manual page to `out`, or all of them into a directory.
pub(super) fn man(directory: Option<&Path>, out: &mut impl Write) -> Result<(), Failure> {
    match directory {
        Some(directory) => {
            let written = clap_mangen::generate_to(command(), directory);
            let context = || format!("can't write manual pages into {}", directory.display());
            Ok(written.with_context(context)?)
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command()).render(&mut page)?;
            Ok(out.write_all(&page)?)
        }
    }
}

/// Writes a page of the reference to `out`.
pub(super) fn reference(of: Page, out: &mut impl Write) -> Result<(), Failure> {
    let page = match of {
        Page::Cli => reference::reference(),
        Page::Config => config::reference(),
    };
    Ok(out.write_all(page.as_bytes())?)
}
