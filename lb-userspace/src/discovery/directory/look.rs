//! One look at all files of a directory.

use std::{
    fs::{self, File, OpenOptions},
    io::Read as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use super::{FOUND_MAX, Files, Service};
use crate::{
    config::{BackendSpec, Format, fragment},
    state::Found,
};

/// Longest file in bytes that is read.
const BYTES_MAX: u64 = 4 << 20;
/// Most files that are read.
const FILES_MAX: usize = 1024;
/// Mistakes that are told of all files together.
const MISTAKES_MAX: usize = 5;

/// What the files say.
#[derive(Debug, PartialEq)]
pub(super) struct Look {
    pub(super) files: Files,
    /// What is wrong with some of them.
    pub(super) trouble: Vec<String>,
}

/// Reads all files. One that is wrong says what it said in `before`.
///
/// # Errors
/// The directory can't be read.
pub(super) fn look(directory: &Path, service: Service, before: &Files) -> Result<Look, String> {
    let names = names(directory)
        .map_err(|error| format!("can't read the directory {}: {error}", directory.display()))?;
    let mut look = Look { files: Files::new(), trouble: Vec::new() };
    let mut mistakes = Vec::new();
    for (name, format) in names.iter().take(FILES_MAX) {
        match read(&directory.join(name), *format, service) {
            Ok(found) => {
                let found =
                    found.into_iter().map(|found| Found { part: Some(name.clone()), ..found });
                look.files.insert(name.clone(), found.collect());
            }
            Err(why) => {
                let kept = before.get(name);
                mistakes.push(match kept {
                    Some(kept) => {
                        format!("{why}; the {} backends that it last told stay", kept.len())
                    }
                    None => why,
                });
                look.files.insert(name.clone(), kept.cloned().unwrap_or_default());
            }
        }
    }
    let more = mistakes.len().saturating_sub(MISTAKES_MAX);
    mistakes.truncate(MISTAKES_MAX);
    look.trouble = mistakes;
    if more > 0 {
        look.trouble.push(format!("{more} more files are wrong"));
    }
    if names.len() > FILES_MAX {
        look.trouble.push(format!("{} files; only the first {FILES_MAX} are read", names.len()));
    }
    Ok(look)
}

/// The files that count, in order. Those whose names begin with a dot are hidden or on their way.
fn names(directory: &Path) -> std::io::Result<Vec<(String, Format)>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        let format = match name.rsplit_once('.') {
            Some((_, "toml")) => Format::Toml,
            Some((_, "json")) => Format::Json,
            _ => continue,
        };
        if !name.starts_with('.') {
            names.push((name, format));
        }
    }
    names.sort();
    Ok(names)
}

fn read(path: &Path, format: Format, service: Service) -> Result<Vec<Found>, String> {
    let file_name = path.display().to_string();
    let unreadable = |error| format!("{file_name}: can't read it: {error}");
    let file = open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(format!("{file_name}: it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(format!("{file_name}: it is longer than {} MiB", BYTES_MAX >> 20));
    }
    let text =
        String::from_utf8(bytes).map_err(|error| format!("{file_name}: not UTF-8: {error}"))?;
    let backends = fragment(&text, &file_name, format, service.vip, service.forward)
        .map_err(|errors| errors.to_string())?;
    if backends.len() > FOUND_MAX {
        return Err(format!("{file_name}: more than {FOUND_MAX} backends"));
    }
    let found = |backend| Found { backend: BackendSpec::from(backend), ..Found::default() };
    Ok(backends.iter().map(found).collect())
}

/// Without waiting for whoever writes into a pipe of that name.
fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Forward;

    fn service() -> Service {
        Service { vip: "203.0.113.10".parse().unwrap(), forward: Forward::L2 }
    }

    fn addresses(seen: &Look) -> Vec<&str> {
        seen.files.values().flatten().map(|found| found.backend.address.as_str()).collect()
    }

    #[test]
    fn files_are_read_and_others_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let put = |name: &str, text: &str| fs::write(path.join(name), text).unwrap();
        put("b.toml", "backend = [{ address = \"10.0.0.2\", weight = 7 }]");
        put("a.json", "{\"backend\": [{\"address\": \"10.0.0.1\"}]}");
        for ignored in [".c.toml", "d.toml.new", "e.toml~", "README", "toml"] {
            put(ignored, "not for us");
        }
        let seen = look(path, service(), &Files::new()).unwrap();
        assert_eq!(addresses(&seen), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(seen.trouble, [""; 0]);
        assert_eq!(seen.files["b.toml"][0].backend.weight, Some(7));
    }

    #[test]
    fn a_wrong_file_says_what_it_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let put = |name: &str, text: &str| fs::write(path.join(name), text).unwrap();
        put("a.toml", "backend = [{ address = \"10.0.0.1\" }]");
        put("b.toml", "backend = [{ address = \"10.0.0.2\" }]");
        let before = look(path, service(), &Files::new()).unwrap().files;
        put("a.toml", "backend = [{\n  adress = \"10.0.0.9\" }]");
        put("b.toml", "backend = [{ address = \"10.0.0.3\" }]");
        put("c.toml", "backend = [{ address = \"10.0.0.");
        let seen = look(path, service(), &before).unwrap();
        assert_eq!(addresses(&seen), ["10.0.0.1", "10.0.0.3"]);
        assert_eq!(seen.trouble.len(), 2, "{:?}", seen.trouble);
        assert!(seen.trouble[0].contains("a.toml:2:3: backend[0].adress: unknown key"));
        assert!(seen.trouble[0].ends_with("the 1 backends that it last told stay"));
        fs::remove_file(path.join("a.toml")).unwrap();
        let seen = look(path, service(), &seen.files).unwrap();
        assert_eq!(addresses(&seen), ["10.0.0.3"]);
        drop(directory);
    }

    #[test]
    fn what_is_no_file_or_too_long_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        nix::unistd::mkfifo(&path.join("pipe.toml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::create_dir(path.join("sub.json")).unwrap();
        File::create(path.join("long.toml")).unwrap().set_len(BYTES_MAX + 1).unwrap();
        fs::write(path.join("bytes.toml"), [0xff, 0xfe]).unwrap();
        let seen = look(path, service(), &Files::new()).unwrap();
        assert_eq!((addresses(&seen).len(), seen.trouble.len()), (0, 4), "{:?}", seen.trouble);
        let gone = look(&path.join("gone"), service(), &Files::new()).unwrap_err();
        assert!(gone.contains("can't read the directory"), "{gone}");
    }
}
