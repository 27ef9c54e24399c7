//! The one shape that TOML and JSON are checked in: values with the place where they start.

use toml::de::{DeTable, DeValue};

/// A value and the byte of the file where it starts; input from the API has no places.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub value: Value,
    pub at: Option<usize>,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i128),
    Boolean(bool),
    List(Vec<Node>),
    Table(Vec<Entry>),
    /// A value of a type that no key has: the type with its article, and the value as written.
    Other(&'static str, String),
}

/// A key of a table with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub name: String,
    /// Where the key starts.
    pub at: Option<usize>,
    pub node: Node,
}

impl Node {
    pub(super) fn text(text: &str) -> Self {
        Self { value: Value::Text(text.to_owned()), at: None }
    }

    pub(super) fn integer(number: i64) -> Self {
        Self { value: Value::Integer(number.into()), at: None }
    }

    pub(super) fn boolean(value: bool) -> Self {
        Self { value: Value::Boolean(value), at: None }
    }

    pub(super) fn from_toml(value: &DeValue<'_>, at: usize) -> Self {
        let value = match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix())
            {
                Ok(number) => Value::Integer(number),
                Err(_) => Value::Other("an integer out of range", number.to_string()),
            },
            DeValue::Array(list) => Value::List(
                list.iter()
                    .map(|item| Self::from_toml(item.get_ref(), item.span().start))
                    .collect(),
            ),
            DeValue::Table(table) => return Self::from_toml_table(table, at),
            DeValue::Boolean(value) => Value::Boolean(*value),
            DeValue::Float(value) => Value::Other("a float", value.to_string()),
            DeValue::Datetime(value) => Value::Other("a date or time", value.to_string()),
        };
        Self { value, at: Some(at) }
    }

    pub(super) fn from_toml_table(table: &DeTable<'_>, at: usize) -> Self {
        let entries = table.iter().map(|(name, value)| Entry {
            name: name.get_ref().to_string(),
            at: Some(name.span().start),
            node: Self::from_toml(value.get_ref(), value.span().start),
        });
        Self { value: Value::Table(entries.collect()), at: Some(at) }
    }

    /// A key whose value is null counts as left out.
    pub(super) fn from_json(value: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let value = match value {
            Json::String(text) => Value::Text(text.clone()),
            Json::Number(number) => match number.as_i128() {
                Some(number) => Value::Integer(number),
                None => Value::Other("a float", number.to_string()),
            },
            Json::Array(list) => Value::List(list.iter().map(Self::from_json).collect()),
            Json::Object(table) => Value::Table(
                table
                    .iter()
                    .filter(|(_, value)| !value.is_null())
                    .map(|(name, value)| Entry {
                        name: name.clone(),
                        at: None,
                        node: Self::from_json(value),
                    })
                    .collect(),
            ),
            Json::Bool(value) => Value::Boolean(*value),
            Json::Null => Value::Other("a null", "null".to_owned()),
        };
        Self { value, at: None }
    }

    /// The value and its type, for messages.
    pub(super) fn describe(&self) -> String {
        match &self.value {
            Value::Text(text) => format!("the text {text:?}"),
            Value::Integer(number) => format!("the integer {number}"),
            Value::Boolean(value) => format!("the boolean {value}"),
            Value::List(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
            Value::Other(kind, text) => format!("{kind} ({text})"),
        }
    }
}
