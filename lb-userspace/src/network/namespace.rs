//! The numbers by which this network namespace knows others (`NETNSA_NSID`), as BPF programs name
//! them.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::StreamExt;
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    nsid::{NsidAttribute, NsidMessage},
};
use rtnetlink::Handle;

use super::NetworkError;

/// Where iproute2 keeps the handles of named namespaces.
const NAMED: &str = "/run/netns";
/// How long an answer of the kernel is waited for; it comes within microseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// The kernel gives a number of its own choice, or has given none.
const ANY: i32 = -1;

/// Why a network namespace has no number.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NamespaceError {
    /// No such file, or no right to it.
    #[error("can't open the network namespace {path}: {source}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Netlink refuses.
    #[error("the kernel gives the network namespace {path} no number: {source}", path = path.display())]
    Number {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// Asks for numbers, in the network namespace of the thread that made it.
pub(crate) struct Namespaces(Handle);

impl Namespaces {
    /// Opens a netlink socket. Needs a tokio runtime to drive it.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub(crate) fn open() -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|source| {
            NetworkError::Open { purpose: "questions about network namespaces", source }
        })?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// The number of a namespace, given to it now where it has none: by the name that `ip netns`
    /// shows, or by a path.
    ///
    /// # Errors
    /// There is no such namespace, or the kernel refuses.
    pub(crate) async fn number(&self, name: &str) -> Result<u32, NamespaceError> {
        let path = Path::new(NAMED).join(name);
        let file = File::open(&path)
            .map_err(|source| NamespaceError::Open { path: path.clone(), source })?;
        self.number_of(&file).await.map_err(|source| NamespaceError::Number { path, source })
    }

    async fn number_of(&self, file: &File) -> io::Result<u32> {
        let known = self.known(file).await?;
        if let Ok(number) = u32::try_from(known) {
            return Ok(number);
        }
        let message = RouteNetlinkMessage::NewNsId(message(file, Some(ANY)));
        match self.ask(message, NLM_F_REQUEST | NLM_F_ACK).await {
            // Somebody else was faster.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            other => drop(other?),
        }
        let given = self.known(file).await?;
        u32::try_from(given).map_err(|_| io::Error::other("it gave one, and doesn't tell it"))
    }

    async fn known(&self, file: &File) -> io::Result<i32> {
        let message = RouteNetlinkMessage::GetNsId(message(file, None));
        let Some(RouteNetlinkMessage::NewNsId(answer)) = self.ask(message, NLM_F_REQUEST).await?
        else {
            return Err(io::Error::other("it answered something else"));
        };
        let number = answer.attributes.iter().find_map(|attribute| match attribute {
            NsidAttribute::Id(number) => Some(*number),
            _ => None,
        });
        Ok(number.unwrap_or(ANY))
    }

    /// The answer; `None` where there is none but that it was done.
    async fn ask(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Option<RouteNetlinkMessage>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let mut answers = self.0.clone().request(request).map_err(io::Error::other)?;
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await?;
        match answer.map(|answer| answer.payload) {
            Some(NetlinkPayload::InnerMessage(inner)) => Ok(Some(inner)),
            Some(NetlinkPayload::Error(error)) if error.code.is_some() => Err(error.to_io()),
            _ => Ok(None),
        }
    }
}

fn message(file: &File, number: Option<i32>) -> NsidMessage {
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(file.as_raw_fd() as u32));
    message.attributes.extend(number.map(NsidAttribute::Id));
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::namespace::joined;

    #[test]
    fn a_namespace_keeps_its_number() {
        joined("nsid", async |peer| {
            let namespaces = Namespaces::open().unwrap();
            let path = format!("/proc/{}/ns/net", peer.thread_id());
            let number = namespaces.number(&path).await.unwrap();
            assert_eq!(namespaces.number(&path).await.unwrap(), number);
            let own = format!("/proc/{}/ns/net", nix::unistd::gettid());
            assert_ne!(namespaces.number(&own).await.unwrap(), number);
        });
    }

    #[test]
    fn what_is_no_namespace_has_none() {
        joined("no-nsid", async |_| {
            let namespaces = Namespaces::open().unwrap();
            let error = namespaces.number("nobody-has-this-name").await.unwrap_err();
            assert!(error.to_string().contains("/run/netns/nobody-has-this-name"), "{error}");
            let error = namespaces.number("/dev/null").await.unwrap_err();
            assert!(matches!(error, NamespaceError::Number { .. }), "{error}");
        });
    }
}
