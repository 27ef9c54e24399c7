//! Real clients in namespaces, which count who answered.

pub mod arrivals;
pub mod attempts;
mod background;
pub mod crowd;
pub mod flood;
pub mod http;
pub mod stream;
pub mod traffic;
pub mod udp;

use std::collections::BTreeMap;
use std::future::Future;

use anyhow::{Context, Result, ensure};

use crate::netns::Namespace;

/// Who answered how much.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Answers by the server's name.
    pub by_server: BTreeMap<String, u64>,
    /// What went wrong, one text for each request without a right answer.
    pub errors: Vec<String>,
}

impl Served {
    /// Requests that were answered.
    pub fn answers(&self) -> u64 {
        self.by_server.values().sum()
    }

    /// # Errors
    /// Not all of that many requests were answered.
    pub fn all_answered(&self, requests: usize) -> Result<()> {
        ensure!(
            self.errors.is_empty() && self.answers() == requests as u64,
            "{} of {requests} requests answered ({:?}); the first errors: {:#?}",
            self.answers(),
            self.by_server,
            self.errors.iter().take(5).collect::<Vec<_>>()
        );
        Ok(())
    }

    /// # Errors
    /// Other servers answered than these.
    pub fn served_by<'a>(&self, servers: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let mut expected: Vec<_> = servers.into_iter().collect();
        expected.sort_unstable();
        let mut actual: Vec<_> = self.by_server.keys().map(String::as_str).collect();
        actual.sort_unstable();
        ensure!(actual == expected, "{actual:?} answered instead of {expected:?}: {self:?}");
        Ok(())
    }

    /// # Errors
    /// A server's share is further from its weight's than `tolerance` (0.03 is 3 %).
    pub fn shared_by_weight(&self, weights: &[(&str, u32)], tolerance: f64) -> Result<()> {
        let all: u32 = weights.iter().map(|&(_, weight)| weight).sum();
        for &(server, weight) in weights {
            let answers = self.by_server.get(server).copied().unwrap_or_default() as f64;
            let fair = self.answers() as f64 * f64::from(weight) / f64::from(all);
            ensure!(
                (answers - fair).abs() <= tolerance * fair,
                "{server} answered {answers} where {fair:.0} are fair: {:?}",
                self.by_server
            );
        }
        Ok(())
    }

    fn count(&mut self, answer: Result<String>) {
        match answer {
            Ok(server) => *self.by_server.entry(server).or_default() += 1,
            Err(error) => self.errors.push(format!("{error:#}")),
        }
    }
}

/// Runs a future to its end on a thread inside the namespace.
///
/// # Errors
/// The namespace can't be entered, and what the future itself says.
fn block_on<T: Send>(
    namespace: &Namespace,
    future: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("start the client's runtime")?.block_on(future)
    })?
}
