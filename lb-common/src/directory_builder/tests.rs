use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn entry(vip: IpAddr, port: Option<u16>, transport: Transport, id: u32) -> Entry {
    let ring_start = id * 10;
    Entry {
        vip,
        port,
        transport,
        id,
        ring_start,
        ring_size: 7,
        affinity: Affinity::Source,
        idle_seconds: 60,
        answers: 0,
        icmp_echo: false,
    }
}

/// The look-up as the packet path does it.
fn look_up(tables: &HalfTables, vip: IpAddr, transport: Transport, port: u16) -> Option<u32> {
    let words = address_words(vip);
    let vip_entry = tables.vips[tables.half.vip_position(words) as usize];
    let family = if vip.is_ipv4() { FAMILY_V4 } else { FAMILY_V6 };
    if vip_entry.address != words || vip_entry.family != family {
        return None;
    }
    let key = service_key(vip_entry.id, transport as u8, port);
    let exact = tables.services[tables.half.service_position(key) as usize];
    if exact.key == key {
        return Some(exact.id);
    }
    let any = vip_entry.any_port[usize::from(transport == Transport::Udp)];
    (any != 0).then(|| tables.services[usize::from(any) - 1].id)
}

fn address(number: u32) -> IpAddr {
    if number.is_multiple_of(2) {
        IpAddr::V4((0xc633_6400 + number).into())
    } else {
        IpAddr::V6((0x2001_0db8_u128 << 96 | u128::from(number)).into())
    }
}

/// 2,000 VIPs with two services each, half of them any-port.
fn many() -> Vec<Entry> {
    (0..2000)
        .flat_map(|number| {
            let port = if number % 4 < 2 { None } else { Some(80) };
            let vip = address(number);
            [
                entry(vip, port, Transport::Tcp, 2 * number + 1),
                entry(vip, Some(443), Transport::Udp, 2 * number + 2),
            ]
        })
        .collect()
}

#[test]
fn thousands_of_services_are_found() {
    let entries = many();
    let tables = build(&entries).unwrap();
    for entry in &entries {
        let found = look_up(&tables, entry.vip, entry.transport, entry.port.unwrap_or(9999));
        assert_eq!(found, Some(entry.id), "{entry:?}");
    }
    for number in 2000..4000 {
        assert_eq!(look_up(&tables, address(number), Transport::Tcp, 80), None);
    }
    let mut read = read(&tables.vips, &tables.services).unwrap();
    read.sort_by_key(|entry| entry.id);
    assert_eq!(read, entries);
}

#[test]
fn the_limits_can_be_reached_and_not_passed() {
    let vip = |number: usize| address(number as u32);
    let full = |count: usize| -> Vec<Entry> {
        (0..count)
            .map(|number| {
                entry(
                    vip(number % MAX_VIPS),
                    Some(1 + (number / MAX_VIPS) as u16),
                    Transport::Tcp,
                    1,
                )
            })
            .collect()
    };
    assert!(build(&full(MAX_SERVICES)).is_ok());
    assert_eq!(
        build(&full(MAX_SERVICES + 1)).unwrap_err(),
        DirectoryError::TooManyServices(MAX_SERVICES + 1)
    );
    let vips: Vec<Entry> =
        (0..=MAX_VIPS).map(|number| entry(vip(number), None, Transport::Udp, 1)).collect();
    assert_eq!(build(&vips).unwrap_err(), DirectoryError::TooManyVips(MAX_VIPS + 1));
}

#[test]
fn every_port_of_one_vip() {
    let vip = address(0);
    let entries: Vec<Entry> =
        (1..=4000).map(|port| entry(vip, Some(port), Transport::Tcp, port.into())).collect();
    let tables = build(&entries).unwrap();
    for port in 1..=4000 {
        assert_eq!(look_up(&tables, vip, Transport::Tcp, port), Some(port.into()));
        assert_eq!(look_up(&tables, vip, Transport::Udp, port), None);
    }
    assert_eq!(look_up(&tables, vip, Transport::Tcp, 4001), None);
}

#[test]
fn small_tables_stay_in_few_cache_lines() {
    let tables = build(&[entry(address(0), Some(80), Transport::Tcp, 1)]).unwrap();
    assert!(tables.services[16..].iter().all(|service| *service == ServiceEntry::default()));
    assert!(tables.vips[16..].iter().all(|vip| *vip == VipEntry::default()));
}

#[test]
fn nothing_is_an_empty_directory() {
    let tables = build(&[]).unwrap();
    assert_eq!(look_up(&tables, address(0), Transport::Tcp, 80), None);
    assert_eq!(read(&tables.vips, &tables.services).unwrap(), []);
}

#[test]
fn what_is_at_odds_is_refused() {
    let web = entry(address(0), Some(80), Transport::Tcp, 1);
    assert_eq!(
        build(&[web, Entry { id: 2, ..web }]).unwrap_err(),
        DirectoryError::Duplicate(Entry { id: 2, ..web })
    );
    let zero = Entry { port: Some(0), ..web };
    assert_eq!(build(&[zero]).unwrap_err(), DirectoryError::PortZero(zero));
    let same: IpAddr = "::198.51.100.0".parse().unwrap();
    let bits = build(&[web, Entry { vip: same, ..web }]).unwrap_err();
    assert_eq!(bits, DirectoryError::SameBits(same));
}

#[test]
fn damaged_tables_are_not_read() {
    let tables = build(&[entry(address(0), Some(80), Transport::Tcp, 1)]).unwrap();
    let damage = |change: fn(&mut ServiceEntry)| {
        let mut services = tables.services.clone();
        services.iter_mut().filter(|service| service.key != 0).for_each(change);
        read(&tables.vips, &services)
    };
    assert_eq!(damage(|service| service.key ^= 7 << 32), None);
    assert_eq!(damage(|service| service.key ^= 1 << 16), None);
    assert_eq!(damage(|service| service.affinity = 9), None);
    assert!(damage(|_| ()).is_some());
}

proptest! {
    #[test]
    fn finds_what_is_there_and_nothing_else(
        keys in prop::collection::btree_map(
            (any::<u8>(), prop::option::of(1..20_u16), any::<bool>()), any::<u32>(), 0..200),
    ) {
        let transport = |udp| if udp { Transport::Udp } else { Transport::Tcp };
        let vip = |vip: u8| address(vip.into());
        let entries: Vec<Entry> = keys
            .iter()
            .map(|(&(number, port, udp), &id)| Entry { ring_start: 0, ..entry(vip(number), port, transport(udp), id % 1000) })
            .collect();
        let tables = build(&entries).unwrap();
        let expected: HashMap<_, _> =
            entries.iter().map(|entry| ((entry.vip, entry.transport, entry.port), entry.id)).collect();
        for number in 0..=u8::MAX {
            for port in 1..21 {
                for transport in [Transport::Tcp, Transport::Udp] {
                    let vip = vip(number);
                    let id = expected.get(&(vip, transport, Some(port))).or_else(|| expected.get(&(vip, transport, None)));
                    prop_assert_eq!(look_up(&tables, vip, transport, port), id.copied());
                }
            }
        }
    }
}
