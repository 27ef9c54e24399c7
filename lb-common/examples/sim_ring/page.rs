//! The page that shows the tables, between markers: `<!-- NAME: … -->` and `<!-- end of NAME -->`.

use std::{fs, io, path::Path};

use crate::report::{self, Row};

/// Puts the tables into the page.
pub(crate) fn write(path: &Path, rows: &[Row]) -> Result<(), io::Error> {
    let told =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let page = fs::read_to_string(path).map_err(told)?;
    let page = replace(&page, "disruption", &report::disruption(rows)).map_err(told)?;
    let page = replace(&page, "times", &report::times(rows)).map_err(told)?;
    fs::write(path, page).map_err(told)
}

/// What stands between the markers of that name.
pub(crate) fn block<'a>(page: &'a str, name: &str) -> Result<&'a str, io::Error> {
    let missing = |what: &str| {
        let message =
            format!("no line that begins with `{what}`, which tells where the table goes");
        io::Error::new(io::ErrorKind::InvalidData, message)
    };
    let (open, close) = (format!("<!-- {name}:"), format!("<!-- end of {name} -->"));
    let (_, rest) = page.split_once(&open).ok_or_else(|| missing(&open))?;
    let (_, rest) = rest.split_once("-->\n").ok_or_else(|| missing(&open))?;
    let (block, _) = rest.split_once(&close).ok_or_else(|| missing(&close))?;
    Ok(block)
}

/// The page with another block of that name.
fn replace(page: &str, name: &str, table: &str) -> Result<String, io::Error> {
    let old = block(page, name)?;
    let start = old.as_ptr().addr() - page.as_ptr().addr();
    let (head, tail) = (&page[..start], &page[start + old.len()..]);
    Ok(format!("{head}{table}{tail}"))
}
