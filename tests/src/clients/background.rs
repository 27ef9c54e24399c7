//! A client's own thread and runtime, inside a namespace.

use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use tokio::sync::watch;

use crate::netns::Namespace;

/// Work on a thread inside a namespace, ended when dropped.
#[derive(Debug)]
pub(super) struct Background {
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Runs `work` until it ends or the guard is dropped; what it is handed tells that.
    ///
    /// # Errors
    /// The namespace can't be opened.
    pub(super) fn start<F: Future<Output = ()>>(
        namespace: &Namespace,
        work: impl FnOnce(watch::Receiver<()>) -> F + Send + 'static,
    ) -> Result<Self> {
        let (stop, stopped) = watch::channel(());
        // The runtime's sockets are made by the thread that runs it: it has to be inside.
        let handle = std::fs::File::open(namespace.path()).context("open the namespace")?;
        let thread = thread::spawn(move || {
            if let Err(error) = nix::sched::setns(handle, nix::sched::CloneFlags::CLONE_NEWNET) {
                eprintln!("could not enter the client's namespace: {error}");
                return;
            }
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(async {
                    let mut ended = stopped.clone();
                    tokio::select! {
                        () = work(stopped) => (),
                        _ = ended.changed() => (),
                    }
                }),
                Err(error) => eprintln!("could not start the client's runtime: {error}"),
            }
        });
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("a client had panicked");
        }
    }
}
