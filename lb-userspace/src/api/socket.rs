//! The control socket's place in the file system.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use thiserror::Error;
use tokio::net::UnixListener;

/// Read and write for the owner and the group.
const MODE: u32 = 0o660;

/// Why there is no control socket.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Another agent answers there.
    #[error(
        "an agent already answers on {0}: stop it first, or give this one another `socket`, \
         `pin_path` and `state_file`"
    )]
    Taken(PathBuf),
    /// Something else has the name.
    #[error("{0} is there and is not a socket: remove it, or set another `[api] socket`")]
    NotASocket(PathBuf),
    /// The host refused.
    #[error("can't {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
}

/// A listening control socket; its name goes with it.
#[derive(Debug)]
pub struct ControlSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl ControlSocket {
    /// Listens on `path`, with mode 0660 from the first moment on. Makes the directory above. A
    /// socket that an agent left behind is replaced, one that answers is not. Needs a Tokio
    /// runtime.
    ///
    /// # Errors
    /// Every [`SocketError`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| SocketError::Io { action, path, source }
        };
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            let mut builder = fs::DirBuilder::new();
            let made = builder.recursive(true).mode(0o755).create(parent);
            made.map_err(failed("make the directory", parent))?;
        }
        clear(path)?;
        // Bound under another name until its mode is right, then given its own, at once and only
        // if that is still free.
        let mut draft = path.as_os_str().to_owned();
        draft.push(format!(".{}", std::process::id()));
        let draft = Draft(PathBuf::from(draft));
        let _ = fs::remove_file(&draft.0);
        let listener = UnixListener::bind(&draft.0).map_err(failed("make the socket", &draft.0))?;
        fs::set_permissions(&draft.0, fs::Permissions::from_mode(MODE))
            .map_err(failed("set the mode of", &draft.0))?;
        let inode = fs::metadata(&draft.0).map_err(failed("look at", &draft.0))?.ino();
        fs::hard_link(&draft.0, path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => SocketError::Taken(path.to_owned()),
            _ => failed("make the socket", path)(source),
        })?;
        Ok(Self { listener, path: path.to_owned(), inode })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Another agent may have taken the name over meanwhile.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A name that doesn't stay.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Removes a socket on which nobody answers.
fn clear(path: &Path) -> Result<(), SocketError> {
    let failed = |action| move |source| SocketError::Io { action, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove the stale socket"))
        }
        // Also an agent that is too busy to accept is one.
        _ => Err(SocketError::Taken(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_has_its_mode_and_goes_with_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/xlb/xlb.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        UnixStream::connect(&path).unwrap();
        let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn only_a_socket_that_nobody_answers_on_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("xlb.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a listener that is dropped leaves its name");
        let first = ControlSocket::bind(&path).unwrap();
        let second = ControlSocket::bind(&path);
        assert!(matches!(second, Err(SocketError::Taken(_))), "{second:?}");
        UnixStream::connect(&path).unwrap();
        drop(first);

        fs::write(&path, "precious").unwrap();
        let third = ControlSocket::bind(&path);
        assert!(matches!(third, Err(SocketError::NotASocket(_))), "{third:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_name_that_was_taken_over_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("xlb.sock");
        let old = ControlSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _new = ControlSocket::bind(&path).unwrap();
        drop(old);
        UnixStream::connect(&path).unwrap();
    }
}
