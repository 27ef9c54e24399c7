//! Load reports in a response's `endpoint-load-metrics` header: ORCA, Open Request Cost
//! Aggregation (xDS, `OrcaLoadReport`; formats as in Envoy's `orca_parser.cc`).
//!
//! In: the header's value. Out: the utilisation that it tells, and what in it was ignored.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

/// What a header says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// `application_utilization`, else `cpu_utilization`; 1 is all that the backend can.
    pub utilization: Option<f64>,
    /// How many values were ignored.
    pub ignored: u32,
    /// The first of them, and why.
    pub complaint: Option<String>,
}

/// More than that is no utilisation.
const MOST: f64 = 1000.0;

/// Reads a header's value.
///
/// # Errors
/// It has another form, such as the binary one: what it is, for people.
pub fn parse(header: &str) -> Result<Parsed, String> {
    let header = header.trim();
    let (format, rest) = match header.split_once(char::is_whitespace) {
        Some((format, rest)) => (format, rest),
        None => (header, ""),
    };
    match format {
        "TEXT" => Ok(text(rest)),
        "JSON" => json(rest),
        "BIN" => {
            Err("the binary form isn't read: have the backend report as TEXT or JSON".to_owned())
        }
        _ if header.starts_with('{') => json(header),
        _ if header.contains('=') => Ok(text(header)),
        _ => Err(format!("neither TEXT nor JSON: {:?}", shown(header))),
    }
}

/// `cpu_utilization=0.3, mem_utilization=0.8, named_metrics.queue=7`.
fn text(pairs: &str) -> Parsed {
    let mut fields = Fields::default();
    for pair in pairs.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some((name, value)) => {
                let number = value.trim().parse().map_err(|_| "is no number");
                fields.add(name.trim(), number);
            }
            None => fields.ignore(pair, "has no value"),
        }
    }
    fields.finish()
}

fn json(object: &str) -> Result<Parsed, String> {
    let fields: Fields =
        serde_json::from_str(object).map_err(|error| format!("not a JSON object: {error}"))?;
    Ok(fields.finish())
}

/// The fields that count, as far as they were found.
#[derive(Debug, Default)]
struct Fields {
    application: Option<f64>,
    cpu: Option<f64>,
    parsed: Parsed,
}

impl Fields {
    fn add(&mut self, name: &str, value: Result<f64, &str>) {
        let field = match name {
            "application_utilization" | "applicationUtilization" => &mut self.application,
            "cpu_utilization" | "cpuUtilization" | "cpu" => &mut self.cpu,
            _ => return,
        };
        let why = match value {
            Err(why) => why,
            Ok(_) if field.is_some() => "is there twice",
            Ok(value) if !value.is_finite() => "is not finite",
            Ok(value) if value < 0.0 => "is negative",
            Ok(value) if value > MOST => "is out of reason",
            Ok(value) => {
                *field = Some(value);
                return;
            }
        };
        self.ignore(name, why);
    }

    fn ignore(&mut self, name: &str, why: &str) {
        self.parsed.ignored += 1;
        self.parsed.complaint.get_or_insert_with(|| format!("{} {why}", shown(name)));
    }

    /// Zero is what a field that was never set looks like.
    fn finish(self) -> Parsed {
        let set = |value: &f64| *value > 0.0;
        let utilization = self.application.filter(set).or(self.cpu.filter(set));
        Parsed { utilization, ..self.parsed }
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<String>()? {
            match map.next_value()? {
                Number::Some(value) => fields.add(&name, Ok(value)),
                Number::None => fields.add(&name, Err("is no number")),
            }
        }
        Ok(fields)
    }
}

/// A number, also one in quotes as protocol buffers may write it; anything else is none.
#[derive(serde::Deserialize)]
#[serde(from = "Anything")]
enum Number {
    Some(f64),
    None,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Anything {
    Number(f64),
    Text(String),
    Other(IgnoredAny),
}

impl From<Anything> for Number {
    fn from(anything: Anything) -> Self {
        match anything {
            Anything::Number(number) => Self::Some(number),
            Anything::Text(text) => text.parse().map_or(Self::None, Self::Some),
            Anything::Other(IgnoredAny) => Self::None,
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn utilization(header: &str) -> Option<f64> {
        parse(header).unwrap().utilization
    }

    #[test]
    fn both_forms_tell_the_utilisation() {
        for (header, expected) in [
            ("TEXT cpu_utilization=0.3, mem_utilization=0.8, named_metrics.x=7", Some(0.3)),
            ("TEXT cpu_utilization=0.3,application_utilization=0.5", Some(0.5)),
            ("TEXT application_utilization=0,cpu_utilization=0.3", Some(0.3)),
            ("cpu_utilization=0.3,mem_utilization=0.8", Some(0.3)),
            ("TEXT cpu=0.3,mem=0.8,foo_bytes=123", Some(0.3)),
            ("  TEXT   cpu_utilization = 1.25 ", Some(1.25)),
            (r#"JSON {"cpu_utilization":0.3,"named_metrics":{"x":[1,{"y":2}]}}"#, Some(0.3)),
            (r#"JSON {"cpuUtilization":"0.3"}"#, Some(0.3)),
            (r#"{"applicationUtilization":0.7,"cpu_utilization":0.3}"#, Some(0.7)),
            ("JSON {}", None),
            ("TEXT", None),
            ("TEXT mem_utilization=0.8", None),
            ("TEXT cpu_utilization=0", None),
        ] {
            assert_eq!(utilization(header), expected, "{header}");
            assert_eq!(parse(header).unwrap().ignored, 0, "{header}");
        }
    }

    #[test]
    fn what_is_no_utilisation_is_ignored_and_told() {
        for (header, utilization, ignored, complaint) in [
            ("TEXT cpu_utilization=NaN", None, 1, "cpu_utilization is not finite"),
            ("TEXT cpu_utilization=inf", None, 1, "cpu_utilization is not finite"),
            ("TEXT cpu_utilization=-0.1", None, 1, "cpu_utilization is negative"),
            ("TEXT cpu_utilization=1e300", None, 1, "cpu_utilization is out of reason"),
            ("TEXT cpu_utilization=x", None, 1, "cpu_utilization is no number"),
            ("TEXT cpu_utilization", None, 1, "cpu_utilization has no value"),
            ("TEXT cpu_utilization=.3,cpu=.9", Some(0.3), 1, "cpu is there twice"),
            (
                r#"JSON {"cpu_utilization":0.3,"cpu_utilization":0.9}"#,
                Some(0.3),
                1,
                "cpu_utilization is there twice",
            ),
            (
                r#"JSON {"application_utilization":"NaN","cpu_utilization":0.3}"#,
                Some(0.3),
                1,
                "application_utilization is not finite",
            ),
            (r#"JSON {"cpu_utilization":null}"#, None, 1, "cpu_utilization is no number"),
            (r#"JSON {"cpu_utilization":[0.3]}"#, None, 1, "cpu_utilization is no number"),
        ] {
            let parsed = parse(header).unwrap();
            assert_eq!(parsed.utilization, utilization, "{header}");
            assert_eq!(parsed.ignored, ignored, "{header}");
            assert_eq!(parsed.complaint.as_deref(), Some(complaint), "{header}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for (header, fragment) in [
            ("BIN CgkJMzMzMzMz0z8=", "binary"),
            ("", "neither"),
            ("0.3", "neither"),
            ("JSON", "not a JSON object"),
            ("JSON [0.3]", "not a JSON object"),
            ("JSON {\"cpu_utilization\":0.3", "not a JSON object"),
        ] {
            let error = parse(header).unwrap_err();
            assert!(error.contains(fragment), "{header}: {error}");
        }
        // As deep as a hostile backend likes.
        assert!(parse(&format!("JSON {{\"x\":{}", "[".repeat(4000))).is_err());
    }

    proptest! {
        #[test]
        fn anything_is_survived(header in ".{0,200}") {
            if let Ok(Parsed { utilization: Some(value), .. }) = parse(&header) {
                prop_assert!(value > 0.0 && value <= MOST);
            }
        }

        #[test]
        fn fields_are_survived(
            pairs in proptest::collection::vec(
                ("(cpu_utilization|application_utilization|cpu|x)", any::<f64>()), 0..5),
        ) {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
            if let Some(value) = parse(&format!("TEXT {}", pairs.join(","))).unwrap().utilization {
                prop_assert!(value > 0.0 && value <= MOST);
            }
        }
    }
}
