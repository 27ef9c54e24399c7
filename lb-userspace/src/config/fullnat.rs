//! Checks `[fullnat]`.

use std::{
    collections::BTreeSet, fmt::Display, net::IpAddr, ops::RangeInclusive, str::FromStr,
    time::Duration,
};

use super::{
    error::{ErrorKind, Fault, Faults},
    keys::{Key, Kind, fullnat as keys, top},
    node::{Node, Value},
    read::{Table, wrong_type},
    types::Fullnat,
    value,
};
use crate::model::Pools;

/// Most addresses of a pool.
const ADDRESSES_MAX: usize = 64;
/// Fewest ports of an address.
const PORTS_MIN: usize = 64;

pub(super) fn check(table: &Table<'_>, faults: &mut Faults) -> Option<Fullnat> {
    let empty = Node { value: Value::Table(Vec::new()), at: None };
    let node = table.get(&top::FULLNAT).unwrap_or(&empty);
    let table = Table::open(node, top::FULLNAT.name, &keys::SECTION, faults)?;
    let ipv4 = addresses(&table, &keys::POOL_IPV4, faults);
    let ipv6 = addresses(&table, &keys::POOL_IPV6, faults);
    let ports = table.value(&keys::PORTS, faults, ports);
    let capacity = table.value(&keys::FLOW_CAPACITY, faults, value::integer(1024..=1 << 26));
    let timeouts = Duration::from_secs(1)..=Duration::from_secs(600);
    let opening = table.value(&keys::OPENING_TIMEOUT, faults, value::duration(timeouts.clone()));
    let closing = table.value(&keys::CLOSING_TIMEOUT, faults, value::duration(timeouts));
    Some(Fullnat {
        pools: Pools { ipv4: ipv4?, ipv6: ipv6?, ports: ports? },
        flow_capacity: capacity?,
        opening_timeout: opening?,
        closing_timeout: closing?,
    })
}

/// Each with its own place, so that one list can have several faults.
fn addresses<T>(table: &Table<'_>, key: &'static Key, faults: &mut Faults) -> Option<Vec<T>>
where
    T: FromStr + Copy + Display + Ord + Into<IpAddr>,
{
    let Some(node) = table.get(key) else { return Some(Vec::new()) };
    let Value::List(items) = &node.value else {
        table.fault(key, wrong_type(node, Kind::List), faults);
        return None;
    };
    if !(1..=ADDRESSES_MAX).contains(&items.len()) {
        table.fault(key, Fault::bad(format!("{} addresses", items.len())), faults);
        return None;
    }
    let mut known = BTreeSet::new();
    let mut addresses = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let address = value::source::<T>(item).and_then(|address| match known.insert(address) {
            true => Ok(address),
            false => Err(Fault::new(ErrorKind::Duplicate, format!("{address} is already there"))
                .help("name each address once")),
        });
        match address {
            Ok(address) => addresses.push(address),
            Err(mut fault) => {
                fault.help.get_or_insert_with(|| key.allowed.to_owned());
                faults.add(item.at, table.path_of(&format!("{}[{index}]", key.name)), fault);
            }
        }
    }
    (addresses.len() == items.len()).then_some(addresses)
}

/// `1024-32767`
fn ports(node: &Node) -> Result<RangeInclusive<u16>, Fault> {
    let found = value::text(node)?;
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|&port| digits && port != 0)
    };
    let range = found.split_once('-').and_then(|(first, last)| Some(port(first)?..=port(last)?));
    let range = range.ok_or_else(|| Fault::bad(format!("{found:?} is no range of ports")))?;
    if range.len() < PORTS_MIN {
        return Err(Fault::bad(format!("{found:?} has {} ports", range.len())));
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<RangeInclusive<u16>, String> {
        ports(&Node::text(text)).map_err(|fault| fault.message)
    }

    #[test]
    fn ports_are_a_range() {
        assert_eq!(parsed("1024-32767"), Ok(1024..=32_767));
        assert_eq!(parsed("1-65535"), Ok(1..=u16::MAX));
        assert_eq!(parsed("1024-1087").map(|range| range.len()), Ok(64));
        for wrong in ["", "1024", "1024-", "-1024", "0-1024", "+1-9999", "1024-65536", "1 - 99"] {
            assert_eq!(parsed(wrong), Err(format!("{wrong:?} is no range of ports")));
        }
        assert_eq!(parsed("2000-1000"), Err("\"2000-1000\" has 0 ports".into()));
        assert_eq!(parsed("1024-1086"), Err("\"1024-1086\" has 63 ports".into()));
    }
}
