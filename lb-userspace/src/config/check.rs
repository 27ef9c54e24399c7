//! `xlb check`: what is said about a file, and the exit status.

use std::{io::Write as _, path::Path};

use serde_json::json;

use super::{ConfigErrors, load};

/// What `xlb check` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// For standard output with `--json` or where the file is good, else for standard error;
    /// without a newline at the end.
    pub text: String,
    /// The exit status: 0 for a good file, 2 for another.
    pub status: u8,
}

/// Checks a file, on no interface and with no agent.
pub fn run(path: &Path, json: bool) -> Checked {
    let file = path.display().to_string();
    let result = load(path);
    let status = if result.is_ok() { 0 } else { 2 };
    let text = match result {
        Ok(config) => {
            let services = config.services.len();
            let backends: usize = config.services.iter().map(|s| s.backends.len()).sum();
            if json {
                json!({
                    "file": file, "ok": true, "errors": [],
                    "services": services, "backends": backends,
                })
                .to_string()
            } else {
                let services = count(services, "service");
                format!("{file}: good: {services}, {}", count(backends, "backend"))
            }
        }
        Err(ConfigErrors(errors)) if json => {
            json!({"file": file, "ok": false, "errors": errors}).to_string()
        }
        Err(errors) => errors.render(),
    };
    Checked { text, status }
}

/// Says what is wrong with a config that another verb was given, on standard error.
pub fn report(errors: &ConfigErrors, json: bool) {
    let text = match json {
        true => json!({"ok": false, "errors": errors.0}).to_string(),
        false => errors.render(),
    };
    // Where even that can't be written, the exit status still tells.
    let _ = writeln!(anstream::stderr(), "{text}");
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
