//! The reference of the config, written from the tables that the parser reads by.

use std::fmt::Write as _;

use super::keys::{Default, Key, SECTIONS, Section};

const HEAD: &str = "# Configuration

<!-- Written by lb-userspace from the parser's own tables: `XLB_BLESS=1 cargo test -p lb-userspace config` writes it anew. -->

One TOML file, read by `xlb run --config FILE` and `xlb replay`, checked by `xlb check FILE`. \
Every mistake of a file is told at once, with its line, its key and what is allowed; nothing is \
applied then. Unknown keys are mistakes.

A duration is a whole number and a unit: `ms`, `s`, `m` or `h`. A percentage is a whole number \
and `%`. Addresses of VIPs and backends \
are those of one host: not unspecified, loopback, multicast, broadcast or IPv4-mapped IPv6. A MAC \
address is that of one interface: not zero, not multicast.

Complete files: [`web.toml`](../examples/web.toml), [`dns.toml`](../examples/dns.toml).
";

/// The reference as Markdown.
pub fn reference() -> String {
    let mut out = HEAD.to_owned();
    for section in SECTIONS {
        write_section(&mut out, section);
    }
    out
}

fn write_section(out: &mut String, section: &Section) {
    let title = match section.header {
        "" => "Top of the file".to_owned(),
        header => format!("`{header}`"),
    };
    // Writing into a String can't fail.
    let _ = write!(
        out,
        "\n## {title}\n\n{}\n\n| key | type | default | allowed | meaning |\n|---|---|---|---|---|\n",
        section.about
    );
    for Key { name, kind, default, allowed, meaning } in section.keys {
        let default = match default {
            Default::Required => "**required**".to_owned(),
            Default::Text(text) => format!("`\"{text}\"`"),
            Default::Integer(number) => format!("`{number}`"),
            Default::Boolean(value) => format!("`{value}`"),
            Default::Otherwise(words) => (*words).to_owned(),
        };
        let kind = kind.describe();
        let _ = writeln!(out, "| `{name}` | {kind} | {default} | {allowed} | {meaning} |");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn the_reference_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/config.md");
        if std::env::var_os("XLB_BLESS").is_some_and(|value| value == "1") {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, reference()).unwrap();
        }
        assert!(
            fs::read_to_string(&path).unwrap_or_default() == reference(),
            "docs/reference/config.md differs from the parser's tables; \
             `XLB_BLESS=1 cargo test -p lb-userspace config` writes it anew"
        );
    }

    #[test]
    fn no_cell_breaks_its_table() {
        for key in SECTIONS.iter().flat_map(|section| section.keys) {
            for cell in [key.name, key.allowed, key.meaning] {
                assert!(!cell.is_empty() && !cell.contains(['|', '\n']), "{}", key.name);
            }
        }
    }
}
