//! Simulates servers whose load xlb follows: how even it gets, how fast, and what moves for it.
//!
//! Prints a table; with `--json` the rows as JSON; with `--write PAGE` puts the table between that
//! page's markers (`docs/load.md`). `cargo xtask sim-load` runs it, built for release.

#[expect(dead_code, unused_imports, reason = "the simulation has no agents")]
#[path = "../../src/live/mod.rs"]
mod live;
mod model;
mod random;
mod report;
mod world;

use std::{env, error::Error, fs, io, path::Path, process::ExitCode};

use self::{report::Row, world::Scene};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        [] => {
            println!("{}", report::table(&rows()));
            Ok(())
        }
        ["--json"] => {
            serde_json::to_string_pretty(&rows()).map(|text| println!("{text}")).map_err(Into::into)
        }
        ["--write", page] => write(page.as_ref(), &report::table(&rows())),
        _ => {
            eprintln!(
                "error: unknown arguments {arguments:?}; allowed is nothing, --json or --write PAGE"
            );
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn rows() -> Vec<Row> {
    Scene::all().iter().map(Row::simulate).collect()
}

/// Puts the table between the page's markers.
fn write(path: &Path, table: &str) -> Result<(), Box<dyn Error>> {
    const OPEN: &str = "<!-- load: `cargo xtask sim-load --write` writes this table anew. -->\n";
    const CLOSE: &str = "<!-- end of load -->";
    let page = fs::read_to_string(path)?;
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "the page has no markers");
    let (head, rest) = page.split_once(OPEN).ok_or_else(missing)?;
    let (_, tail) = rest.split_once(CLOSE).ok_or_else(missing)?;
    fs::write(path, format!("{head}{OPEN}{table}{CLOSE}{tail}"))?;
    Ok(())
}
