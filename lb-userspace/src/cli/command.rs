//! The tree of verbs, with a help that is ordered by what a person wants to do.

use std::fmt::Write as _;

use clap::{
    Arg, ArgAction, Command, CommandFactory as _,
    builder::{Styles, ValueParser},
};

use super::args::Cli;

/// What a person wants, and the verbs for it. Every verb that isn't hidden stands here once.
pub(super) const GROUPS: &[(&str, &[&str])] = &[
    ("Run", &["run", "check"]),
    ("Look", &["status", "stats", "events", "flows", "explain"]),
    ("Change, live", &["service", "backend"]),
    ("Try", &["replay", "bench"]),
    ("On a backend", &["decap", "register"]),
    ("Install", &["completions", "man"]),
];

/// Verbs that talk to no agent.
const WITHOUT_AGENT: [&str; 9] =
    ["run", "check", "replay", "decap", "register", "bench", "completions", "man", "reference"];
/// Verbs that print nothing but a page.
const PAGES: [&str; 3] = ["completions", "man", "reference"];

/// The whole tree.
pub(super) fn command() -> Command {
    let command = Cli::command();
    let template = template(&command);
    // An argument of the verb's own, in place of the global one: still taken, and not shown.
    let silent = |command: Command, name: &'static str, action: ArgAction| {
        let parser = match action {
            ArgAction::SetTrue => ValueParser::bool(),
            _ => ValueParser::path_buf(),
        };
        command.arg(Arg::new(name).long(name).hide(true).action(action).value_parser(parser))
    };
    let command = WITHOUT_AGENT.iter().fold(command, |command, verb| {
        command.mut_subcommand(verb, |verb| silent(verb, "socket", ArgAction::Set))
    });
    let command = PAGES.iter().fold(command, |command, verb| {
        command.mut_subcommand(verb, |verb| silent(verb, "json", ArgAction::SetTrue))
    });
    command.help_template(template)
}

fn template(command: &Command) -> String {
    let header = *Styles::styled().get_header();
    let verb_style = *Styles::styled().get_literal();
    let mut text = "{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    let names = GROUPS.iter().flat_map(|(_, verbs)| verbs.iter());
    let width = names.map(|name| name.len()).max().unwrap_or(0);
    for (wish, verbs) in GROUPS {
        // Writing into a String can't fail.
        let _ = write!(text, "\n{header}{wish}:{header:#}\n");
        for verb in verbs.iter().filter_map(|name| command.find_subcommand(name)) {
            let (name, about) = (verb.get_name(), verb.get_about().cloned().unwrap_or_default());
            let _ = writeln!(text, "  {verb_style}{name:width$}{verb_style:#}  {about}");
        }
    }
    let _ = write!(text, "\n{header}Options:{header:#}\n{{options}}\n\n");
    text.push_str("`xlb VERB --help` tells more. Exit status: 0 done, 1 failed, 2 wrong input.");
    text
}
