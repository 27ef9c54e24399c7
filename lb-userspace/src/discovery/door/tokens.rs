//! Tokens that clients show: read from a file, compared in constant time.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use subtle::ConstantTimeEq as _;

/// Shortest token in bytes: 16 hex digits are 64 bits.
const SHORTEST: usize = 16;
/// Longest token in bytes.
const LONGEST: usize = 512;
/// Most tokens of a file.
const MOST: usize = 16;

/// Tokens, any of which is good: so one can be replaced by another without a gap.
pub(super) struct Tokens {
    path: PathBuf,
    tokens: Vec<String>,
    /// It was said that the file is wrong.
    complained: bool,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens of {}", self.path.display())
    }
}

impl Tokens {
    /// Reads a file of one token a line. Empty lines, and those that begin with `#`, don't count.
    ///
    /// # Errors
    /// It can't be read, or has no token, or one that is too short.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let unreadable = |error| format!("can't read the token file {}: {error}", path.display());
        let mut text = String::new();
        let file = File::open(path).map_err(unreadable)?;
        let limit = (MOST * (LONGEST + 1)) as u64;
        file.take(limit).read_to_string(&mut text).map_err(unreadable)?;
        let lines = text.lines().map(str::trim);
        let tokens: Vec<String> = lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(str::to_owned)
            .collect();
        let good = |token: &String| {
            (SHORTEST..=LONGEST).contains(&token.len())
                && token.bytes().all(|b| b.is_ascii_graphic())
        };
        if tokens.is_empty() || tokens.len() > MOST || !tokens.iter().all(good) {
            return Err(format!(
                "{}: a token file has 1 to {MOST} lines, each with a token of {SHORTEST} to \
                 {LONGEST} visible ASCII characters: `openssl rand -hex 32` makes one",
                path.display()
            ));
        }
        Ok(Self { path: path.to_owned(), tokens, complained: false })
    }

    /// Whether a token is one of these. How long that takes tells nothing but lengths.
    pub(super) fn has(&self, token: &str) -> bool {
        let same = |known: &String| known.as_bytes().ct_eq(token.as_bytes());
        let none = subtle::Choice::from(0);
        self.tokens.iter().map(same).fold(none, |any, one| any | one).into()
    }

    /// Reads the file again; one that is wrong changes nothing.
    pub(super) fn look(&mut self) {
        match Self::read(&self.path) {
            Ok(tokens) => *self = tokens,
            Err(why) if !self.complained => {
                tracing::warn!("{why}; the tokens that it had stay good");
                self.complained = true;
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn any_line_is_good_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, "# old and new\n0123456789abcdef\n\n fedcba9876543210 \n").unwrap();
        let mut tokens = Tokens::read(&path).unwrap();
        assert!(tokens.has("0123456789abcdef") && tokens.has("fedcba9876543210"));
        for wrong in
            ["", "0123456789abcde", "0123456789abcdef0", "# old and new", "fedcba9876543211"]
        {
            assert!(!tokens.has(wrong), "{wrong}");
        }
        fs::write(&path, "tooshort\n").unwrap();
        tokens.look();
        assert!(tokens.has("0123456789abcdef"), "a wrong file changes nothing");
        fs::write(&path, "aaaaaaaaaaaaaaaaa\n").unwrap();
        tokens.look();
        assert!(!tokens.has("0123456789abcdef") && tokens.has("aaaaaaaaaaaaaaaaa"));
        for bad in ["", "\n#\n", "with a space in it\n", "short\n"] {
            fs::write(&path, bad).unwrap();
            let error = Tokens::read(&path).unwrap_err();
            assert!(error.contains("openssl rand") && !error.contains("short\n"), "{error}");
        }
    }
}
