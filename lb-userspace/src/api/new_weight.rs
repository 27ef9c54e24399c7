//! A change of a backend's weight, as it is typed and sent.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a backend's weight becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum NewWeight {
    /// This, whatever the config says now or later.
    Live(u16),
    /// What the config says, or its source, or who added it: now and later.
    Configured,
}

/// The word of [`NewWeight::Configured`].
const CONFIGURED: &str = "configured";

impl FromStr for NewWeight {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(weight) => Ok(Self::Live(weight)),
            Err(_) if text == CONFIGURED => Ok(Self::Configured),
            Err(_) => Err(format!("it is a number from 0 to 65535, or `{CONFIGURED}`")),
        }
    }
}

impl TryFrom<Value> for NewWeight {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        match &value {
            Value::String(word) if word == CONFIGURED => Ok(Self::Configured),
            Value::Number(number) => number.to_string().parse(),
            _ => Err(format!("a weight is a number from 0 to 65535, or \"{CONFIGURED}\"")),
        }
    }
}

impl From<NewWeight> for Value {
    fn from(weight: NewWeight) -> Self {
        match weight {
            NewWeight::Live(weight) => weight.into(),
            NewWeight::Configured => CONFIGURED.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_a_number_or_a_word() {
        for (value, weight) in
            [(json!(0), NewWeight::Live(0)), (json!("configured"), NewWeight::Configured)]
        {
            assert_eq!(serde_json::from_value::<NewWeight>(value.clone()).unwrap(), weight);
            assert_eq!(serde_json::to_value(weight).unwrap(), value);
        }
        for wrong in [json!(65536), json!(-1), json!(1.5), json!("7"), json!(null), json!([1])] {
            let error = serde_json::from_value::<NewWeight>(wrong).unwrap_err().to_string();
            assert!(error.contains("65535"), "{error}");
        }
        assert_eq!("7".parse(), Ok(NewWeight::Live(7)));
        assert_eq!("configured".parse(), Ok(NewWeight::Configured));
        assert!("config".parse::<NewWeight>().is_err());
    }
}
