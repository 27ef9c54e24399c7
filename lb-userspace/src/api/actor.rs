//! Who is at the other end of the control socket, by what the kernel says.

use std::{convert::Infallible, fmt::Write as _, fs};

use axum::{extract::FromRequestParts, http::request::Parts};
use tokio::net::{UnixStream, unix::UCred};

/// The login of a process that has none (`AUDIT_UID_UNSET`, include/uapi/linux/audit.h).
const NO_LOGIN: u32 = u32::MAX;

/// Who asks for a change: user and process, where they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actor(Option<String>);

impl Actor {
    /// Such as `uid 1000 (ada), pid 4711`; `None` where nobody is known.
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Whoever is at an address.
    pub fn at(address: std::net::IpAddr) -> Self {
        Self(Some(address.to_string()))
    }

    /// With the user's name, and who logged in where that is another, as with sudo.
    fn of(peer: Peer) -> Self {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let login =
            peer.pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/loginuid")).ok());
        let login = login.and_then(|login| login.trim().parse().ok());
        Self(Some(describe(peer, login, &users)))
    }
}

/// The process that made a connection, as it was then (`SO_PEERCRED`, unix(7)).
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    uid: u32,
    /// `None` where it is not in the agent's process namespace.
    pid: Option<i32>,
}

impl Peer {
    /// Whoever is at the other end.
    pub(super) fn at(stream: &UnixStream) -> Option<Self> {
        let credentials: UCred = stream.peer_cred().ok()?;
        Some(Self { uid: credentials.uid(), pid: credentials.pid().filter(|pid| *pid > 0) })
    }
}

fn describe(peer: Peer, login: Option<u32>, users: &str) -> String {
    let mut text = format!("uid {}", user(peer.uid, users));
    // Writing into a String can't fail, here and below.
    if let Some(login) = login.filter(|login| ![peer.uid, NO_LOGIN].contains(login)) {
        let _ = write!(text, ", logged in as {}", user(login, users));
    }
    if let Some(pid) = peer.pid {
        let _ = write!(text, ", pid {pid}");
    }
    text
}

/// A user by number, with the name that the file of users (passwd(5)) has for it.
fn user(uid: u32, users: &str) -> String {
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    match name {
        Some(name) => format!("{uid} ({name})"),
        None => uid.to_string(),
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Actor {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().copied().map_or_else(Self::default, Self::of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str =
        "root:x:0:0:root:/root:/bin/bash\n\nbroken\nada:x:1000:1000::/home/ada:/bin/sh\n";

    #[test]
    fn people_are_told_by_name_and_number() {
        let peer = |uid, pid| Peer { uid, pid };
        let say = |peer, login| describe(peer, login, USERS);
        assert_eq!(say(peer(1000, Some(4711)), None), "uid 1000 (ada), pid 4711");
        assert_eq!(say(peer(1000, Some(4711)), Some(1000)), "uid 1000 (ada), pid 4711");
        assert_eq!(say(peer(7, None), Some(NO_LOGIN)), "uid 7");
        assert_eq!(
            say(peer(0, Some(12)), Some(1000)),
            "uid 0 (root), logged in as 1000 (ada), pid 12"
        );
    }
}
