//! Backends that are told apart from their service: those of a file in a directory, and those that
//! join a service by what a source found.

use std::net::IpAddr;

use lb_common::ring::MAX_MEMBERS;
use toml::de::DeTable;

use super::{
    claims::Claims,
    error::{ConfigErrors, ErrorKind, Fault, Faults},
    keys::{backend, fragment as keys},
    node::Node,
    read::Table,
    service::{self, BackendContext, Taken},
    spec::{BackendSpec, to_node},
    syntax_fault,
    types::{BackendConfig, ServiceConfig},
};
use crate::model::{Destination, Forward};

/// The form of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// As the config.
    Toml,
    /// The same keys.
    Json,
}

/// Reads a file that lists backends of a service, by the rules of the config file.
///
/// # Errors
/// Every mistake, with its key, and in TOML with its line.
pub fn fragment(
    text: &str,
    file_name: &str,
    format: Format,
    vip: IpAddr,
    forward: Forward,
) -> Result<Vec<BackendConfig>, ConfigErrors> {
    let mut faults = Faults::default();
    let root = match format {
        Format::Toml => {
            let (document, syntax_errors) = DeTable::parse_recoverable(text);
            for error in syntax_errors {
                let span = error.span().unwrap_or(text.len()..text.len());
                let (at, key, fault) = syntax_fault(error.message(), text, span);
                faults.add(Some(at), key, fault);
            }
            Some(Node::from_toml_table(document.get_ref(), 0))
        }
        Format::Json => match serde_json::from_str(text) {
            Ok(json) => Some(Node::from_json(&json)),
            Err(error) => {
                let at = place(text, error.line(), error.column());
                faults.add(
                    Some(at),
                    "",
                    Fault::new(ErrorKind::Syntax, format!("not JSON: {error}")),
                );
                None
            }
        },
    };
    // Which of them can join is seen once they do.
    let context = BackendContext {
        owner: "this file",
        vip: Some(Destination { address: vip, port: Some(0) }),
        key: None,
        forward: Some(forward),
        via: None,
    };
    let backends = root.and_then(|root| backends(&root, context, &mut faults));
    faults.settle(backends, Some((file_name, text)))
}

fn backends(
    root: &Node,
    context: BackendContext<'_>,
    faults: &mut Faults,
) -> Option<Vec<BackendConfig>> {
    let table = Table::open(root, "", &keys::SECTION, faults)?;
    if table.get(&keys::BACKEND).is_none() {
        let fault = Fault::new(ErrorKind::MissingKey, "required key is missing");
        table.fault(&keys::BACKEND, fault, faults);
        return None;
    }
    let (mut taken, mut claims) = (Taken::new(), Claims::default());
    let nodes = table.tables(&keys::BACKEND, "[[backend]]", faults);
    let backends: Vec<Option<BackendConfig>> = nodes
        .iter()
        .enumerate()
        .map(|(index, node)| {
            let path = format!("backend[{index}]");
            service::check_backend(node, &path, context, (&mut taken, &mut claims), faults)
        })
        .collect();
    backends.into_iter().collect()
}

/// The byte at a line and a column, both from 1.
fn place(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (before + column.saturating_sub(1)).min(text.len())
}

/// A backend that can't join its service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its address as it was told.
    pub address: String,
    /// Why not.
    pub why: String,
}

/// Lets backends that were found join a service, at most `room` of them: each is checked by the
/// rules of the config file, and those that don't fit are given back.
pub fn join<'a>(
    service: &mut ServiceConfig,
    found: impl IntoIterator<Item = &'a BackendSpec>,
    room: usize,
    claims: &mut Claims,
) -> Vec<Refused> {
    let ring = service.ring_size.map_or(MAX_MEMBERS, |size| MAX_MEMBERS.min(size as usize));
    let before = service.clone();
    let context = BackendContext::of(&before);
    let mut taken = Taken::new();
    for backend in &service.backends {
        taken.add(backend.key, "the service's own backends");
    }
    let (mut joined, mut refused) = (0, Vec::new());
    for spec in found {
        let mut refuse = |why| refused.push(Refused { address: spec.address.clone(), why });
        if service.backends.len() >= ring || joined >= room {
            let why = match service.backends.len() >= ring {
                true => format!("the ring has room for {ring} backends"),
                false => "all services together have as many backends as there may be".to_owned(),
            };
            refuse(why);
            continue;
        }
        let mut faults = Faults::default();
        let backend = to_node(spec).map(|node| {
            let others = (&mut taken, &mut *claims);
            service::check_backend(&node, backend::SECTION.header, context, others, &mut faults)
        });
        match backend.and_then(|backend| faults.settle(backend, None)) {
            Ok(backend) => {
                service.backends.push(backend);
                joined += 1;
            }
            Err(ConfigErrors(errors)) => {
                let why: Vec<_> = errors.into_iter().map(|error| error.message).collect();
                refuse(why.join("; "));
            }
        }
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 10));

    fn read(text: &str, format: Format) -> Result<Vec<String>, String> {
        let backends = fragment(text, "a", format, VIP, Forward::L2);
        let backends = backends.map_err(|errors| errors.to_string())?;
        Ok(backends.iter().map(|b| format!("{}={}", b.key, b.weight)).collect())
    }

    #[test]
    fn both_forms_have_the_keys_of_the_config() {
        let toml = "backend = [{ address = \"10.0.0.1\", weight = 7 }]\n[[x]]\n";
        let error = read(toml, Format::Toml).unwrap_err();
        assert!(error.contains("a:2:") && error.contains("x: unknown key"), "{error}");
        let toml = "[[backend]]\naddress = \"10.0.0.1\"\nweight = 7\n";
        assert_eq!(read(toml, Format::Toml).unwrap(), ["10.0.0.1=7"]);
        let json = "{\"backend\": [{\"address\": \"10.0.0.1\"}, {\"address\": \"10.0.0.2\"}]}";
        assert_eq!(read(json, Format::Json).unwrap(), ["10.0.0.1=100", "10.0.0.2=100"]);
        assert_eq!(read("backend = []", Format::Toml).unwrap(), [""; 0]);
    }

    #[test]
    fn mistakes_are_told_with_their_places() {
        for (format, text, told) in [
            (Format::Toml, "[[backend]]\naddress = \"x\"\n", "a:2:11: backend[0].address"),
            (Format::Toml, "[[backend]]\naddress = \"fd00::1\"\n", "address families differ"),
            (Format::Toml, "", "backend: required key is missing"),
            (Format::Toml, "[[backend]\n", "a:1:"),
            (Format::Json, "{\n\"backend\": [}", "a:2:"),
            (Format::Json, "[]", "expected a table"),
            (Format::Json, "{\"backend\": [{\"adress\": \"10.0.0.1\"}]}", "did you mean"),
            (
                Format::Json,
                "{\"backend\": [{\"address\": \"10.0.0.1\"}, {\"address\": \"10.0.0.1\"}]}",
                "already there",
            ),
        ] {
            let error = read(text, format).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn one_that_doesnt_fit_keeps_nobody_else_out() {
        let text = "interfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nforward = \"l2\"\n\
                    vip = \"203.0.113.10:80\"\nring_size = 5\nbackend = [{address = \"10.0.0.1\"}]";
        let mut service = parse(text, "test.toml").unwrap().services.remove(0);
        let spec = |address: &str| BackendSpec { address: address.into(), ..Default::default() };
        let found = ["fd00::1", "10.0.0.1", "127.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
        let found: Vec<_> = found.into_iter().map(spec).collect();
        let refused = join(&mut service, &found, 2, &mut Claims::default());
        let told: Vec<_> = refused.iter().map(|r| format!("{}: {}", r.address, r.why)).collect();
        assert_eq!(
            told,
            [
                "fd00::1: `l2` can't carry packets for 203.0.113.10 to fd00::1: the address \
                 families differ",
                "10.0.0.1: 10.0.0.1 is already there, in the service's own backends",
                "127.0.0.1: 127.0.0.1 is a loopback address",
                "10.0.0.4: all services together have as many backends as there may be",
            ]
        );
        let more: Vec<_> = (10..20).map(|last| spec(&format!("10.0.0.{last}"))).collect();
        assert_eq!(join(&mut service, &more, usize::MAX, &mut Claims::default()).len(), 8);
        assert_eq!(service.backends.len(), 5);
    }
}
