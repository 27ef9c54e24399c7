//! Aligned columns, and numbers that people can read.

use std::time::Duration;

use anstyle::{AnsiColor, Style};

pub(crate) const PLAIN: Style = Style::new();
pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const RED: Style = AnsiColor::Red.on_default().bold();
pub(crate) const GREEN: Style = AnsiColor::Green.on_default();
pub(crate) const YELLOW: Style = AnsiColor::Yellow.on_default();

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Text in a style.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(crate) fn styled(text: impl Into<String>, style: Style) -> Self {
        // Control characters of whatever origin stay out of the terminal.
        let text = text.into().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { text, style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, PLAIN)
    }
}

/// Rows below a head; columns are as wide as their widest text.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(head: [(&'static str, Align); N]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.head.len());
        self.rows.push(cells.to_vec());
    }

    /// With a newline after each row. Columns that are empty in every row are left out.
    pub(crate) fn render(&self, indent: usize) -> String {
        let width = |text: &str| text.chars().count();
        let columns: Vec<(usize, usize)> = (0..self.head.len())
            .filter_map(|column| {
                let widest = self.rows.iter().map(|row| width(&row[column].text)).max()?;
                (widest > 0).then(|| (column, widest.max(width(self.head[column].0))))
            })
            .collect();
        let head: Vec<Cell> = self.head.iter().map(|(name, _)| Cell::styled(*name, DIM)).collect();
        let mut text = String::new();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut line = " ".repeat(indent);
            for (position, (column, wide)) in columns.iter().enumerate() {
                let Cell { text, style } = &row[*column];
                let gap = " ".repeat(wide - width(text));
                let between = if position == 0 { "" } else { "  " };
                match self.head[*column].1 {
                    Align::Left => line += &format!("{between}{style}{text}{style:#}{gap}"),
                    Align::Right => line += &format!("{between}{gap}{style}{text}{style:#}"),
                }
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// `4711`, `1.23 M`: three or four digits, decimal prefixes.
pub(crate) fn count(number: u64) -> String {
    scaled(number, 10_000, "")
}

/// `512 B`, `1.23 MB`.
pub(crate) fn bytes(number: u64) -> String {
    scaled(number, 1_000, "B")
}

fn scaled(number: u64, from: u64, unit: &str) -> String {
    let space = if unit.is_empty() { "" } else { " " };
    if number < from {
        return format!("{number}{space}{unit}");
    }
    let mut value = number as f64 / 1000.0;
    let mut prefixes = ["k", "M", "G", "T", "P", "E"].into_iter();
    let mut prefix = prefixes.next().unwrap_or_default();
    // From where it would be shown as 1000.
    while value >= 999.5 {
        value /= 1000.0;
        prefix = prefixes.next().unwrap_or(prefix);
    }
    let decimals = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.decimals$} {prefix}{unit}")
}

/// The two largest units: `1 d 2 h`, `5 s`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [("d", 86_400, u64::MAX), ("h", 3_600, 24), ("min", 60, 60), ("s", 1, 60)];
    let parts = units.iter().map(|(unit, size, many)| (seconds / size % many, unit));
    let shown: Vec<_> = parts
        .skip_while(|(number, _)| *number == 0)
        .take(2)
        .filter(|(number, _)| *number > 0)
        .map(|(number, unit)| format!("{number} {unit}"))
        .collect();
    if shown.is_empty() { "0 s".to_owned() } else { shown.join(" ") }
}

/// `1 backend`, `2 backends`.
pub(crate) fn plural(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let counts: &[(u64, &str)] = &[
            (0, "0"),
            (9_999, "9999"),
            (10_000, "10.0 k"),
            (999_499, "999 k"),
            (999_500, "1.00 M"),
            (1_234_567, "1.23 M"),
            (u64::MAX, "18.4 E"),
        ];
        for (number, text) in counts {
            assert_eq!(count(*number), *text);
        }
        for (number, text) in
            [(0, "0 B"), (999, "999 B"), (1_000, "1.00 kB"), (12_582_912, "12.6 MB")]
        {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_599, "59 min 59 s"),
            (86_400, "1 d"),
            (86_460, "1 d"),
            (93_784, "1 d 2 h"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn columns_align_and_empty_ones_go() {
        let mut table =
            Table::new([("NAME", Align::Left), ("NOTE", Align::Left), ("N", Align::Right)]);
        table.row(["a".into(), "".into(), "1".into()]);
        table.row([Cell::styled("größer", GREEN), "".into(), "1000".into()]);
        let plain = anstream::adapter::strip_str(&table.render(1)).to_string();
        assert_eq!(plain, " NAME       N\n a          1\n größer  1000\n");
        let coloured = table.render(0);
        assert!(coloured.contains('\u{1b}'));
    }

    #[test]
    fn nothing_that_is_shown_commands_the_terminal() {
        let mut table = Table::new([("REASON", Align::Left)]);
        table.row(["\u{1b}[2J\r\nroot".into()]);
        assert!(table.render(0).ends_with(" [2J  root\n"), "{:?}", table.render(0));
    }
}
