//! The reference of the command line in Markdown, from the tree of verbs.

use std::fmt::Write as _;

use clap::{Arg, Command};

use super::command::{GROUPS, command};

/// `docs/reference/cli.md`.
pub(super) fn reference() -> String {
    let mut command = command();
    command.build();
    let mut text = "# Command line\n\n\
        Written from the program's own help: edit `lb-userspace/src/cli/args.rs`, then run \
        `XLB_BLESS=1 cargo test -p lb-userspace reference`.\n\n\
        Exit status: 0 done, 1 failed, 2 wrong input.\n"
        .to_owned();
    // Writing into a String can't fail, here and below.
    let _ = write!(text, "\n## Options of every verb\n\n");
    options(&mut text, command.get_arguments().filter(|arg| arg.is_global_set()));
    for (wish, verbs) in GROUPS {
        let _ = writeln!(text, "\n## {wish}");
        for verb in verbs.iter().filter_map(|name| command.find_subcommand(name)) {
            describe(&mut text, verb, "xlb");
        }
    }
    text
}

fn describe(text: &mut String, verb: &Command, parent: &str) {
    let path = format!("{parent} {}", verb.get_name());
    let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
    let long = verb.get_long_about().map(ToString::to_string).unwrap_or_default();
    let more = long.strip_prefix(&about).unwrap_or_default();
    if verb.has_subcommands() {
        for verb in verb.get_subcommands().filter(|verb| verb.get_name() != "help") {
            describe(text, verb, &path);
        }
        return;
    }
    let usage = verb.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let _ = write!(text, "\n### {path}\n\n{about}.{more}\n\n```text\n{usage}\n```\n");
    let own = || {
        let arguments = verb.get_arguments().filter(|arg| !arg.is_global_set());
        arguments.filter(|arg| !arg.is_hide_set() && arg.get_id() != "help")
    };
    if own().next().is_some() {
        text.push('\n');
        options(text, own());
    }
}

fn options<'a>(text: &mut String, args: impl Iterator<Item = &'a Arg>) {
    text.push_str("| option | meaning | default |\n|---|---|---|\n");
    for arg in args {
        let _ = writeln!(text, "| `{}` | {} | {} |", shape(arg), meaning(arg), default(arg));
    }
}

fn shape(arg: &Arg) -> String {
    let value = || {
        let names = arg.get_value_names().unwrap_or_default();
        names.iter().map(|name| name.to_string()).collect::<Vec<_>>().join(" ")
    };
    match arg.get_long() {
        None => value(),
        Some(long) if arg.get_action().takes_values() => format!("--{long} {}", value()),
        Some(long) => format!("--{long}"),
    }
}

fn meaning(arg: &Arg) -> String {
    let mut text = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let values = arg.get_possible_values();
    if arg.get_action().takes_values() && !values.is_empty() {
        let words: Vec<_> = values.iter().map(|value| format!("`{}`", value.get_name())).collect();
        let _ = write!(text, ": {}", words.join(", "));
    }
    text.replace('|', "\\|")
}

fn default(arg: &Arg) -> String {
    if arg.is_required_set() {
        return "required".to_owned();
    }
    let values = arg.get_default_values().iter();
    // A flag's "false" says nothing.
    let values = values.filter(|_| arg.get_action().takes_values());
    values.map(|value| format!("`{}`", value.display())).collect::<Vec<_>>().join(" ")
}
