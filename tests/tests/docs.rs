//! What the documentation says is so: links, config examples, drop reasons, metrics, commands.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lb_common::verdict::DropReason;
use xlb_tests::xlb::Program;

/// Directories that hold no documentation of ours.
const ELSEWHERE: [&str; 2] = ["target", ".git"];

#[test]
fn every_relative_link_leads_somewhere() -> Result<()> {
    let mut broken = Vec::new();
    let mut seen = 0;
    for page in pages()? {
        let text = fs::read_to_string(&page)?;
        for target in links(&text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            seen += 1;
            if let Err(error) = follow(&page, target) {
                broken.push(format!("{}: {target}: {error:#}", page.display()));
            }
        }
    }
    ensure!(seen > 50, "only {seen} links were found: the test reads them wrongly");
    ensure!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
    Ok(())
}

#[test]
fn every_config_example_is_good() -> Result<()> {
    let xlb = Program::find()?;
    let directory = tempfile::tempdir()?;
    let mut checked = 0;
    for page in pages()? {
        for (number, example) in blocks(&fs::read_to_string(&page)?, "toml config").enumerate() {
            let path = directory.path().join(format!("example-{checked}.toml"));
            fs::write(&path, example)?;
            let path = path.to_str().context("a path that is no UTF-8")?;
            xlb.run(&["check", path])?
                .expect(0)
                .with_context(|| format!("config example {} of {}", number + 1, page.display()))?;
            checked += 1;
        }
    }
    for entry in fs::read_dir(root().join("docs/examples"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            xlb.run(&["check", path.to_str().context("a path that is no UTF-8")?])?.expect(0)?;
            checked += 1;
        }
    }
    ensure!(checked >= 4, "only {checked} examples were found");
    Ok(())
}

/// The README shows a file that it names: they are the same.
#[test]
fn the_readmes_config_is_the_labs() -> Result<()> {
    let readme = fs::read_to_string(root().join("README.md"))?;
    let shown = blocks(&readme, "toml config").next().context("the README shows no config")?;
    let file = fs::read_to_string(root().join("docs/examples/lab.toml"))?;
    let file: String = file
        .lines()
        .skip_while(|line| line.starts_with('#'))
        .fold(String::new(), |text, line| text + line + "\n");
    ensure!(shown == file, "the README shows\n{shown}\nand docs/examples/lab.toml is\n{file}");
    Ok(())
}

#[test]
fn the_operator_guide_knows_every_drop_reason() -> Result<()> {
    let section = section("By drop reason")?;
    let told: BTreeSet<_> = first_cells(&section).collect();
    let names: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    ensure!(told == names, "the guide's table has {told:?}, the program {names:?}");
    for (name, row) in first_cells(&section).zip(rows(&section)) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        ensure!(
            cells.len() == 3 && cells.iter().all(|cell| !cell.is_empty()),
            "{name} needs a cause and what to do: {row}"
        );
    }
    Ok(())
}

#[test]
fn the_operator_guide_knows_every_metric() -> Result<()> {
    let source = fs::read_to_string(root().join("lb-userspace/src/metrics/render.rs"))?;
    let mut metrics = BTreeSet::new();
    for (function, suffix) in [("gauges(", ""), ("counters(", "_total"), ("histogram(", "")] {
        for call in source.split(function).skip(1) {
            let arguments = call.trim_start().strip_prefix("out,").map(str::trim_start);
            let Some(name) = arguments.and_then(|rest| rest.strip_prefix('"')) else { continue };
            let name = name.split('"').next().context("a name without an end")?;
            metrics.insert(format!("xlb_{name}{suffix}"));
        }
    }
    ensure!(metrics.len() > 10, "only {metrics:?} were found: the test reads the code wrongly");
    let section = section("Metrics")?;
    let told: BTreeSet<_> = first_cells(&section).map(ToOwned::to_owned).collect();
    ensure!(told == metrics, "the guide's table has {told:?}, the code {metrics:?}");
    Ok(())
}

/// Every `xlb VERB` in a code block is a verb.
#[test]
fn every_command_exists() -> Result<()> {
    let help = Program::find()?.run(&["--help"])?.expect(0)?.stdout;
    let verbs: BTreeSet<_> = help
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .collect();
    ensure!(verbs.contains("run") && verbs.contains("backend"), "no verbs in {help}");
    let mut seen = BTreeSet::new();
    for page in pages()? {
        let text = fs::read_to_string(&page)?;
        for line in code_lines(&text) {
            let Some(verb) = verb(line) else { continue };
            ensure!(
                verbs.contains(verb),
                "{}: `{line}`: xlb --help has no verb {verb}",
                page.display()
            );
            seen.insert(verb.to_owned());
        }
    }
    for needed in ["run", "check", "status", "stats", "backend", "explain", "decap"] {
        ensure!(seen.contains(needed), "no page shows xlb {needed}: the test reads them wrongly");
    }
    Ok(())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All Markdown files of the workspace.
fn pages() -> Result<Vec<PathBuf>> {
    let mut pages = Vec::new();
    let mut directories = vec![root()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            if entry.file_type()?.is_dir() {
                if !ELSEWHERE.iter().any(|elsewhere| name == *elsewhere) {
                    directories.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    Ok(pages)
}

/// The targets of `[text](target)`, outside of code blocks.
fn links(text: &str) -> impl Iterator<Item = &str> {
    prose(text)
        .flat_map(|line| line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)))
}

/// # Errors
/// No such file, or no such heading in it.
fn follow(page: &Path, target: &str) -> Result<()> {
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let path = match file {
        "" => page.to_owned(),
        file => page.parent().context("a page in no directory")?.join(file),
    };
    ensure!(path.exists(), "no such file");
    if !heading.is_empty() {
        let text = fs::read_to_string(&path)?;
        let headings: Vec<_> = prose(&text)
            .filter(|line| line.starts_with('#'))
            .map(|line| anchor(line.trim_start_matches('#').trim()))
            .collect();
        ensure!(headings.iter().any(|found| found == heading), "no such heading");
    }
    Ok(())
}

/// The name that forges give a heading.
fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter_map(|letter| match letter {
            ' ' => Some('-'),
            '-' | '_' => Some(letter),
            letter => letter.is_alphanumeric().then_some(letter),
        })
        .collect()
}

/// Lines, each with the info string of the code block that it is in.
fn lines(text: &str) -> impl Iterator<Item = (Option<&str>, &str)> {
    let mut block = None;
    text.lines().filter_map(move |line| match (line.strip_prefix("```"), block) {
        (Some(_), Some(_)) => {
            block = None;
            None
        }
        (Some(info), None) => {
            block = Some(info);
            None
        }
        (None, block) => Some((block, line)),
    })
}

fn prose(text: &str) -> impl Iterator<Item = &str> {
    lines(text).filter(|(block, _)| block.is_none()).map(|(_, line)| line)
}

fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    let is_shell = |block: Option<&str>| matches!(block, Some("sh" | "console"));
    lines(text).filter(move |(block, _)| is_shell(*block)).map(|(_, line)| line)
}

/// The content of each code block with this info string.
fn blocks(text: &str, info: &str) -> impl Iterator<Item = String> {
    let opening = format!("```{info}");
    let mut blocks: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match (inside, line.starts_with("```")) {
            (false, _) if line == opening => {
                inside = true;
                blocks.push(String::new());
            }
            (true, true) => inside = false,
            (true, false) => {
                if let Some(block) = blocks.last_mut() {
                    *block += line;
                    *block += "\n";
                }
            }
            (false, _) => {}
        }
    }
    blocks.into_iter()
}

/// The verb of a line that calls xlb, be it behind a prompt or behind `lab enter NAME`.
fn verb(line: &str) -> Option<&str> {
    let mut words = line.trim_start_matches(['#', '$', ' ']).split_whitespace().peekable();
    if words.peek() == Some(&"lab") {
        words.nth(2);
    }
    if words.next()? != "xlb" {
        return None;
    }
    words.find(|word| !word.starts_with('-')).filter(|word| word.chars().all(char::is_alphabetic))
}

/// A section of the operator guide, by its heading.
fn section(heading: &str) -> Result<String> {
    let guide = fs::read_to_string(root().join("docs/operator-guide.md"))?;
    let mut text = String::new();
    let mut inside = false;
    for line in guide.lines() {
        if line.starts_with('#') {
            inside = line.trim_start_matches('#').trim() == heading;
        } else if inside {
            text += line;
            text += "\n";
        }
    }
    ensure!(!text.is_empty(), "the operator guide has no section {heading}");
    Ok(text)
}

/// The rows of a section's table that begin with a name in code.
fn rows(section: &str) -> impl Iterator<Item = &str> {
    section.lines().filter(|line| line.starts_with("| `"))
}

fn first_cells(section: &str) -> impl Iterator<Item = &str> {
    rows(section).filter_map(|row| row.split('`').nth(1))
}
