//! HTTP/2 connections that leave nothing behind.
//!
//! hyper drives an HTTP/2 connection in a task of its own, which only ends when the other side
//! agrees. A probe's time is over at its deadline: its tasks are ended with it.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::{client::conn::http2, rt::Executor};
use tokio::task::JoinSet;

/// Longest header section in bytes that is read.
pub(super) const HEADERS_MAX: usize = 64 * 1024;

/// Bytes that a server may send ahead of what was read: more than a probe looks at.
const WINDOW: u32 = 64 * 1024;

/// Prepares an HTTP/2 connection. What belongs to it ends when the second value is dropped.
pub(super) fn h2() -> (http2::Builder<Spawner>, Tasks) {
    let tasks = Tasks(Arc::default());
    let mut builder = http2::Builder::new(Spawner(Arc::clone(&tasks.0)));
    builder
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(16 * 1024)
        .max_header_list_size(HEADERS_MAX as u32)
        // Nothing may be pushed or opened from the other side.
        .max_concurrent_streams(0);
    (builder, tasks)
}

/// The tasks of one connection.
pub(super) struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        // The tasks hold the set, too: dropping this part of it alone would not end them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

/// Starts tasks of one connection.
#[derive(Clone)]
pub(super) struct Spawner(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, task: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }
}
