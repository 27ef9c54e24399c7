//! Two anonymous network namespaces with a veth pair between them.
//!
//! A namespace lives as long as its thread: nothing is left behind, whatever happens to the test.

use std::{fs, future::Future, process::Command, sync::mpsc, thread, time::Duration};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::{Pid, Uid, gettid},
};

/// How long a whole test may take.
const TEST_DEADLINE: Duration = Duration::from_secs(60);

/// The balancer's end of the pair.
pub(crate) const BALANCER_MAC: [u8; 6] = [2, 0, 0, 0, 7, 1];
/// The peer's end of the pair.
pub(crate) const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 7, 2];

type Job = Box<dyn FnOnce() + Send>;

/// Another namespace: jobs run on its thread.
pub(crate) struct Peer {
    jobs: mpsc::Sender<Job>,
    thread_id: Pid,
}

impl Peer {
    fn start() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            ready.send(gettid()).unwrap();
            queue.iter().for_each(|job| job());
        });
        Self { jobs, thread_id: started.recv().expect("the peer's thread") }
    }

    /// Its thread, by which the kernel names the namespace.
    pub(crate) fn thread_id(&self) -> Pid {
        self.thread_id
    }

    /// Runs `ip ARGUMENTS` there.
    pub(crate) fn ip(&self, arguments: &str) {
        let arguments = arguments.to_owned();
        self.run(move || ip(&arguments));
    }

    /// Runs a job there, and waits for its end.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let (done, finished) = mpsc::channel();
        let job = Box::new(move || {
            job();
            done.send(()).unwrap();
        });
        self.jobs.send(job).expect("the peer's thread");
        finished.recv().expect("the peer's job");
    }
}

/// Runs `ip ARGUMENTS` in the calling thread's namespace.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {stderr}");
}

/// Sets `net/PATH` in the calling thread's namespace.
pub(crate) fn sysctl(path: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{path}"), value)
        .unwrap_or_else(|error| panic!("net/{path}: {error}"));
}

/// Joins `b0` here (10.7.0.1/24, 2001:db8:7::1/64) to `p0` at the peer (….2).
pub(crate) fn join(peer: &Peer) {
    let link = "addr 02:00:00:00:07";
    ip(&format!("link add b0 {link}:01 type veth peer name p0 {link}:02 netns {}", peer.thread_id));
    ip("addr add 10.7.0.1/24 dev b0");
    ip("addr add 2001:db8:7::1/64 dev b0 nodad");
    peer.ip("addr add 10.7.0.2/24 dev p0");
    peer.ip("addr add 2001:db8:7::2/64 dev p0 nodad");
    peer.ip("link set p0 up");
    ip("link set b0 up");
}

/// Runs a test in a namespace of its own, joined to a peer's. Skips it without root.
pub(crate) fn joined<F: Future<Output = ()>>(name: &str, test: impl FnOnce(Peer) -> F + Send) {
    if !Uid::effective().is_root() {
        println!("SKIP {name}: needs root");
        return;
    }
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            ip("link set lo up");
            let peer = Peer::start();
            join(&peer);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime
                .expect("a runtime")
                .block_on(async { tokio::time::timeout(TEST_DEADLINE, test(peer)).await })
                .expect("the test ends in time");
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}
