//! Where the data plane is pinned, so that it outlives the agent.
//!
//! ```text
//! <pin_path>/tables        symbolic link to the maps in force
//! <pin_path>/tables-1/     the maps
//! <pin_path>/program       the program
//! <pin_path>/links/eth0    the program's link to an interface
//! ```
//! The BPF file system forbids dots in names.

use std::{
    ffi::CString,
    fs::{self, File, TryLockError},
    io,
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt as _, fs::symlink},
    },
    path::{Path, PathBuf},
};

use super::{error::Error, sys};

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;
/// Where distributions mount it.
const MOUNT_POINT: &str = "/sys/fs/bpf";
/// In the pin path: names the directory of the maps in force.
pub(super) const TABLES: &str = "tables";
/// Where iproute2 keeps named network namespaces.
const NAMESPACES: &str = "/run/netns";

/// The pin directory, held by this process alone.
#[derive(Debug)]
pub(super) struct Pins {
    path: PathBuf,
    /// Locked while it is open.
    _lock: File,
}

impl Pins {
    /// Makes the directories that are missing, and takes the lock. Mounts the BPF file system at
    /// its usual place if it isn't there; says so in `notices`.
    pub(super) fn open(path: &Path, notices: &mut Vec<String>) -> Result<Self, Error> {
        ensure_bpffs(path, notices)?;
        let dotted =
            |path: &&Path| path.file_name().is_some_and(|name| name.as_bytes().contains(&b'.'));
        if let Some(path) = path.ancestors().take_while(|path| !path.exists()).find(dotted) {
            return Err(Error::DotInName(path.to_owned()));
        }
        let links = path.join("links");
        fs::create_dir_all(&links).map_err(|error| {
            Error::kernel(format!("make the directory {}", links.display()), error)
        })?;
        let doing = || format!("lock {}", path.display());
        let lock = File::open(path).map_err(|error| Error::kernel(doing(), error))?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let entered = entered(&mounts).filter(|name| Path::new(NAMESPACES).join(name).exists());
        if let Some(name) = entered.filter(|_| path.starts_with(MOUNT_POINT)) {
            notices.push(format!(
                "what is pinned in {}, and the program's work with it, ends with this process, \
                 because `ip netns exec` gave it a {MOUNT_POINT} of its own: start xlb by `nsenter \
                 --net={NAMESPACES}/{name}` instead, which keeps the host's",
                path.display()
            ));
        }
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(Error::kernel(doing(), error)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of the maps in force.
    pub(super) fn tables(&self) -> Result<Option<PathBuf>, Error> {
        let link = self.path.join(TABLES);
        match fs::read_link(&link) {
            Ok(target) => Ok(Some(self.path.join(target))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::kernel(format!("read {}", link.display()), error)),
        }
    }

    /// Makes an empty directory for new maps, and removes those of others that are not in force.
    pub(super) fn new_tables(&self) -> Result<PathBuf, Error> {
        self.remove_leftovers()?;
        let free = |number: &u32| !self.path.join(format!("tables-{number}")).exists();
        let number = (1..).find(free).expect("the directory has no four billion entries");
        let path = self.path.join(format!("tables-{number}"));
        fs::create_dir(&path).map_err(|error| {
            Error::kernel(format!("make the directory {}", path.display()), error)
        })?;
        Ok(path)
    }

    /// Puts maps in force, at once. The others are leftovers then.
    pub(super) fn set_tables(&self, tables: &Path) -> Result<(), Error> {
        let name = tables.file_name().expect("a directory that new_tables made");
        let new = self.path.join("tables-new");
        let result = match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => symlink(name, &new).and_then(|()| fs::rename(&new, self.path.join("tables"))),
        };
        result.map_err(|error| Error::kernel(format!("put {} in force", tables.display()), error))
    }

    /// Removes what an interrupted change left.
    pub(super) fn remove_leftovers(&self) -> Result<(), Error> {
        let keep = self.tables()?;
        for path in entries(&self.path)? {
            let name = path.file_name().unwrap_or_default().as_bytes();
            let directory = name.starts_with(b"tables-") && path.is_dir() && !path.is_symlink();
            if directory && Some(&path) != keep.as_ref() {
                remove_directory(&path)?;
            }
        }
        Ok(())
    }

    /// Where an interface's link is pinned. Dots in its name are written `%2E`; `%` is in none.
    pub(super) fn link(&self, interface: &str) -> PathBuf {
        self.path.join("links").join(interface.replace('.', "%2E"))
    }

    /// The interfaces that have a pinned link.
    pub(super) fn linked(&self) -> Result<Vec<String>, Error> {
        let name = |path: PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.replace("%2E", ".")
        };
        Ok(entries(&self.path.join("links"))?.into_iter().map(name).collect())
    }

    /// Pins a BPF object under a name, in place of what is there, at once.
    pub(super) fn replace(&self, name: &str, object: impl AsFd) -> Result<(), Error> {
        let path = self.path.join(name);
        let new = self.path.join(format!("{name}-new"));
        remove_if_there(&new)?;
        sys::pin(object, &new)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|error| Error::kernel(format!("pin {}", path.display()), error))
    }

    /// Removes everything: the data plane ends with this process.
    pub(super) fn remove(self) -> Result<(), Error> {
        for path in entries(&self.path.join("links"))? {
            remove_if_there(&path)?;
        }
        for name in ["program", "program-new", "tables", "tables-new"] {
            remove_if_there(&self.path.join(name))?;
        }
        self.remove_leftovers()?;
        for path in [self.path.join("links"), self.path.clone()] {
            match fs::remove_dir(&path) {
                // Something of somebody else's in it, or the mount point itself.
                Err(error)
                    if !matches!(error.raw_os_error(), Some(libc::ENOTEMPTY | libc::EBUSY)) =>
                {
                    return Err(Error::kernel(format!("remove {}", path.display()), error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::kernel(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

fn remove_directory(path: &Path) -> Result<(), Error> {
    for entry in entries(path)? {
        remove_if_there(&entry)?;
    }
    fs::remove_dir(path).map_err(|error| Error::kernel(format!("remove {}", path.display()), error))
}

fn entries(path: &Path) -> Result<Vec<PathBuf>, Error> {
    fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(|error| Error::kernel(format!("list {}", path.display()), error))
}

fn ensure_bpffs(path: &Path, notices: &mut Vec<String>) -> Result<(), Error> {
    let no_bpffs = |reason: String| Error::NoBpffs { path: path.to_owned(), reason };
    let existing = path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    if is_bpffs(existing).map_err(|error| no_bpffs(error.to_string()))? {
        return Ok(());
    }
    if !path.starts_with(MOUNT_POINT) || !Path::new(MOUNT_POINT).is_dir() {
        return Err(no_bpffs(format!("{} is on another one", existing.display())));
    }
    // SAFETY: strings that end in 0, and no data.
    let result = unsafe {
        libc::mount(
            c"bpf".as_ptr(),
            c"/sys/fs/bpf".as_ptr(),
            c"bpf".as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            std::ptr::null(),
        )
    };
    if result != 0 {
        return Err(no_bpffs(format!("mounting one failed: {}", io::Error::last_os_error())));
    }
    notices.push(format!("mounted the BPF file system at {MOUNT_POINT}, it was missing"));
    Ok(())
}

/// The network namespace whose `ip netns exec` started this process, if one did: that mounts a
/// `/sys` named after it, for its own children alone (ip-netns(8)).
fn entered(mounts: &str) -> Option<&str> {
    let mount = |line: &'_ str| line.split(' ').nth(4) == Some("/sys");
    let (_, sysfs) = mounts.lines().rfind(|line| mount(line))?.split_once(" - sysfs ")?;
    sysfs.split(' ').next()
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: integers, for which zero is a value.
    let mut status: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a string that ends in 0, and a place for the result.
    if unsafe { libc::statfs(path.as_ptr(), &mut status) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(status.f_type as u32 == BPF_FS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ip_netns_exec_is_recognised() {
        let host = "24 1 0:22 / /sys rw,nosuid - sysfs sysfs rw\n30 24 0:27 / /sys/fs/bpf rw - bpf bpf rw\n";
        assert_eq!(entered(host), Some("sysfs"));
        let inside = format!("{host}99 70 0:55 / /sys rw,relatime - sysfs blue rw\n");
        assert_eq!(entered(&inside), Some("blue"));
        assert_eq!(entered(""), None);
    }
}
