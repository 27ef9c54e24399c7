//! Simulates changes of a service's backends, and tells what they cost with xlb's ring and with
//! plain Maglev rebuilt over the live backends.
//!
//! Prints tables; with `--json` the rows as JSON; with `--write PAGE` puts the tables between that
//! page's markers (`docs/ring.md`). `cargo xtask sim-ring` runs it, built for release.

mod change;
mod cost;
mod maglev;
mod page;
mod random;
mod report;
#[cfg(test)]
mod tests;

use std::{env, error::Error, process::ExitCode};

use lb_common::ring::default_size;

use self::{change::Event, report::Row};

/// How many backends the simulated services have.
const BACKENDS: [usize; 3] = [10, 100, 1000];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = match arguments[..] {
        [] => Output::Tables,
        ["--json"] => Output::Json,
        ["--write", page] => Output::Page(page),
        _ => {
            eprintln!(
                "error: unknown arguments {arguments:?}; allowed is nothing, --json or --write PAGE"
            );
            return ExitCode::from(2);
        }
    };
    match run(&output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What becomes of the rows.
enum Output<'a> {
    Tables,
    Json,
    Page(&'a str),
}

fn run(output: &Output<'_>) -> Result<(), Box<dyn Error>> {
    let rows = rows();
    match output {
        Output::Tables => println!("{}\n{}", report::disruption(&rows), report::times(&rows)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&rows)?),
        Output::Page(path) => page::write(path.as_ref(), &rows)?,
    }
    Ok(())
}

fn rows() -> Vec<Row> {
    let row = |backends| move |event| Row::simulate(event, backends, default_size(backends));
    BACKENDS.into_iter().flat_map(|backends| Event::ALL.into_iter().map(row(backends))).collect()
}
