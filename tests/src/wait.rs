//! Waiting for a condition, never for an amount of time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::interrupt;

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Asks `condition` until it answers `Ok(value)`, for at most `deadline`.
///
/// # Errors
/// Past the deadline: what was waited for, how long, and the condition's last error. At once, when
/// the process is asked to end.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<T>,
) -> Result<T> {
    regardless(what, deadline, || match interrupt::check() {
        Ok(()) => condition().map(Ok),
        Err(interrupted) => Ok(Err(interrupted)),
    })?
}

/// [`until`], also while the process is asked to end.
///
/// # Errors
/// Past the deadline.
pub fn regardless<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= deadline => {
                bail!("waited {deadline:?} for {what}, in vain; at last: {error:#}")
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn returns_as_soon_as_the_condition_holds() {
        let mut asked = 0;
        let answer = until("the third time", Duration::from_secs(10), || {
            asked += 1;
            if asked == 3 { Ok(asked) } else { Err(anyhow!("not yet")) }
        });
        assert_eq!(answer.unwrap(), 3);
    }

    #[test]
    fn gives_up_with_the_last_reason() {
        let error = until::<()>("nothing", Duration::from_millis(20), || Err(anyhow!("no reply")));
        let text = error.unwrap_err().to_string();
        assert!(text.contains("nothing") && text.contains("no reply"), "{text}");
    }
}
