//! Walks a table by its keys: unknown keys, missing keys and values of a wrong type end here.

use super::{
    error::{ErrorKind, Fault, Faults},
    keys::{Default, Key, Kind, SECTIONS, Section},
    node::{Entry, Node, Value},
};

/// An open table of the input.
pub(super) struct Table<'a> {
    path: String,
    at: Option<usize>,
    entries: &'a [Entry],
}

impl<'a> Table<'a> {
    /// Reports every key of `node` that `section` doesn't have.
    pub(super) fn open(
        node: &'a Node,
        path: &str,
        section: &Section,
        faults: &mut Faults,
    ) -> Option<Self> {
        let Value::Table(entries) = &node.value else {
            let help = format!("write it as {}", section.header);
            faults.add(node.at, path, wrong_type(node, Kind::Table).help(help));
            return None;
        };
        let table = Self { path: path.to_owned(), at: node.at, entries };
        for entry in entries {
            if !section.keys.iter().any(|key| key.name == entry.name) {
                let fault = Fault::new(ErrorKind::UnknownKey, "unknown key")
                    .help(suggest(&entry.name, section));
                faults.add(entry.at, table.path_of(&entry.name), fault);
            }
        }
        Some(table)
    }

    pub(super) fn get(&self, key: &Key) -> Option<&'a Node> {
        self.entries.iter().find(|entry| entry.name == key.name).map(|entry| &entry.node)
    }

    /// The key's path.
    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Where to point for a key: at its value, or where it is left out at the table's head.
    pub(super) fn at(&self, key: &Key) -> Option<usize> {
        self.get(key).map_or(self.at, |node| node.at)
    }

    /// Reports a fault of a key's value. Without help of its own it says what the key allows.
    pub(super) fn fault(&self, key: &Key, mut fault: Fault, faults: &mut Faults) {
        fault.help.get_or_insert_with(|| key.allowed.to_owned());
        faults.add(self.at(key), self.path_of(key.name), fault);
    }

    /// The key's value, or its default. `None` is reported, but for an optional key that is left
    /// out.
    pub(super) fn value<T>(
        &self,
        key: &Key,
        faults: &mut Faults,
        convert: impl FnOnce(&Node) -> Result<T, Fault>,
    ) -> Option<T> {
        let default;
        let node = match (self.get(key), &key.default) {
            (Some(node), _) => node,
            (None, Default::Text(text)) => {
                default = Node::text(text);
                &default
            }
            (None, Default::Integer(number)) => {
                default = Node::integer(*number);
                &default
            }
            (None, Default::Boolean(value)) => {
                default = Node::boolean(*value);
                &default
            }
            (None, Default::Otherwise(_)) => return None,
            (None, Default::Required) => {
                let fault = Fault::new(ErrorKind::MissingKey, "required key is missing");
                self.fault(key, fault, faults);
                return None;
            }
        };
        let kind_fits = match node.value {
            Value::Text(_) => matches!(key.kind, Kind::Text | Kind::TextOrInteger),
            Value::Integer(_) => matches!(key.kind, Kind::Integer | Kind::TextOrInteger),
            Value::Boolean(_) => key.kind == Kind::Boolean,
            Value::List(_) => matches!(key.kind, Kind::List | Kind::Tables),
            Value::Table(_) => key.kind == Kind::Table,
            Value::Other(..) => false,
        };
        let result = if kind_fits { convert(node) } else { Err(wrong_type(node, key.kind)) };
        result.map_err(|fault| self.fault(key, fault, faults)).ok()
    }

    /// The items of a list of tables; none where it is left out or something else. A table alone,
    /// in single brackets, is a mistake, and is looked into like one of a list.
    pub(super) fn tables(&self, key: &Key, header: &str, faults: &mut Faults) -> &'a [Node] {
        match self.get(key) {
            None => &[],
            Some(Node { value: Value::List(items), .. }) => items,
            Some(node @ Node { value: Value::Table(_), .. }) => {
                let fault = Fault::new(ErrorKind::WrongType, "a single table, in single brackets");
                let help = format!("write each one as {header}, in double brackets");
                self.fault(key, fault.help(help), faults);
                std::slice::from_ref(node)
            }
            Some(node) => {
                let help = format!("write each one as {header}");
                self.fault(key, wrong_type(node, Kind::Tables).help(help), faults);
                &[]
            }
        }
    }
}

pub(super) fn wrong_type(node: &Node, expected: Kind) -> Fault {
    Fault::new(
        ErrorKind::WrongType,
        format!("expected {}, found {}", expected.describe(), node.describe()),
    )
}

/// What an unknown key may have been meant as: a similar one, or one of another section.
fn suggest(name: &str, section: &Section) -> String {
    let near = section
        .keys
        .iter()
        .map(|key| (strsim::damerau_levenshtein(name, key.name), key.name))
        .min()
        .filter(|(distance, key)| *distance <= (key.len() / 3).max(1));
    if let Some((_, key)) = near {
        return format!("did you mean `{key}`?");
    }
    let elsewhere = SECTIONS.iter().find(|other| other.keys.iter().any(|key| key.name == name));
    match elsewhere {
        Some(Section { header: "", .. }) => {
            format!("`{name}` belongs at the top of the file, before any [section]")
        }
        Some(other) => format!("`{name}` belongs in {}", other.header),
        None => {
            let names: Vec<_> = section.keys.iter().map(|key| key.name).collect();
            format!("allowed here: {}", names.join(", "))
        }
    }
}
