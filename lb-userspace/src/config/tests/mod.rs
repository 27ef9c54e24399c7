//! What operators write, good and bad.

mod api;
mod bad;
mod discovery;
mod good;
mod live;

use super::{Config, ConfigErrors, parse};

/// The least top of a file; one line.
const TOP: &str = "interfaces = [\"eth0\"]\n";

/// The least service; lines 2 to 5 after [`TOP`].
const SERVICE: &str =
    "[[service]]\nname = \"web\"\nvip = \"203.0.113.10:80\"\nforward = \"ipip\"\n";

fn good(text: &str) -> Config {
    match parse(text, "xlb.toml") {
        Ok(config) => config,
        Err(errors) => panic!("{text}\n{errors}"),
    }
}

fn bad(text: &str) -> ConfigErrors {
    match parse(text, "xlb.toml") {
        Ok(config) => panic!("{text}\nis accepted: {config:#?}"),
        Err(errors) => errors,
    }
}
