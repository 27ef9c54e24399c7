//! Completion scripts and manual pages, from the same tree of verbs.

use std::{io::Write, path::Path};

use anyhow::Context as _;
use clap::Command;
use clap_complete::Shell;

use super::{Failure, args::Page, command::command, reference, table::plural};
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
            written.with_context(context)?;
            let first = directory.join("xlb.1");
            let pages = plural(pages(&command()), "page");
            Ok(writeln!(
                out,
                "wrote {pages} into {}: man {}",
                directory.display(),
                first.display()
            )?)
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command()).render(&mut page)?;
            Ok(out.write_all(&page)?)
        }
    }
}

/// Manual pages of a verb and those below it, without hidden ones.
fn pages(command: &Command) -> usize {
    let below = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    1 + below.map(pages).sum::<usize>()
}

/// Writes a page of the reference to `out`.
pub(super) fn reference(of: Page, out: &mut impl Write) -> Result<(), Failure> {
    let page = match of {
        Page::Cli => reference::reference(),
        Page::Config => config::reference(),
    };
    Ok(out.write_all(page.as_bytes())?)
}
