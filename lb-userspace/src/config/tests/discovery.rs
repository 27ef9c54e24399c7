//! `[service.discovery]` and `[api.register]`.

use std::time::Duration;

use super::{SERVICE, TOP, bad, good};
use crate::config::{
    DiscoveryConfig, DiscoverySource, DnsRecord, DnsSource, ServiceSpec, types::RegisterDoor,
};

const DOOR: &str = "[api.register]\nlisten = \"10.0.0.2:9701\"\ntoken_file = \"/etc/xlb/token\"\n";

fn discovery(keys: &str) -> DiscoveryConfig {
    let config = good(&format!("{TOP}{DOOR}{SERVICE}[service.discovery]\n{keys}"));
    let service = &config.services[0];
    // What the API and the state file have is the same.
    assert_eq!(&ServiceSpec::from(service).check(&[]).unwrap(), service);
    service.discovery.clone().unwrap()
}

#[test]
fn sources_are_read() {
    let name = "name = \"_web._tcp.example.net.\"";
    let dns = DnsSource {
        name: "_web._tcp.example.net".into(),
        record: DnsRecord::Address,
        server: None,
        weight: 100,
        min_ttl: Duration::from_secs(1),
        max_ttl: Duration::from_secs(300),
    };
    let found = discovery(&format!("type = \"dns\"\n{name}"));
    let source = DiscoverySource::Dns(dns.clone());
    assert_eq!(found, DiscoveryConfig { source, allow_empty: false });
    let found = discovery(&format!(
        "type = \"dns\"\n{name}\nrecord = \"srv\"\nserver = \"10.0.0.53\"\nweight = 0\n\
         min_ttl = \"5s\"\nmax_ttl = \"5s\"\nallow_empty = true"
    ));
    let source = DiscoverySource::Dns(DnsSource {
        record: DnsRecord::Srv,
        server: Some("10.0.0.53:53".parse().unwrap()),
        weight: 0,
        min_ttl: Duration::from_secs(5),
        max_ttl: Duration::from_secs(5),
        ..dns
    });
    assert_eq!(found, DiscoveryConfig { source, allow_empty: true });
    let found = discovery("type = \"directory\"\npath = \"/etc/xlb/web\"");
    assert_eq!(found.source, DiscoverySource::Directory("/etc/xlb/web".into()));
    let found = discovery("type = \"register\"\nweight = 7");
    assert_eq!(found.source, DiscoverySource::Register { weight: 7 });
}

#[test]
fn the_door_is_read() {
    let door = |keys: &str| {
        let text = format!("{TOP}[api.register]\nlisten = \"10.0.0.2:9701\"\n{keys}");
        good(&text).api.register.unwrap()
    };
    let found = door("token_file = \"/t\"");
    let RegisterDoor { listen, token_file, tls, any_address } = found;
    assert_eq!((listen.port(), token_file, any_address), (9701, Some("/t".into()), false));
    assert_eq!(tls, None);
    let found = door("tls_cert = \"/c\"\ntls_key = \"/k\"\nclient_ca = \"/a\"\nany_address = true");
    assert_eq!((found.token_file, found.any_address), (None, true));
    assert_eq!(found.tls.unwrap().client_ca, Some("/a".into()));
}

#[test]
fn mistakes_are_told() {
    for (keys, told) in [
        ("type = \"consul\"", "unknown discovery \"consul\""),
        ("type = \"dns\"", "discovery.name: required key is missing"),
        ("type = \"directory\"", "discovery.path: required key is missing"),
        ("type = \"directory\"\npath = \"web\"", "not an absolute path"),
        ("type = \"directory\"\npath = \"/x\"\nname = \"a\"", "\"directory\" has no `name`"),
        ("type = \"register\"\nserver = \"10.0.0.53\"", "\"register\" has no `server`"),
        ("type = \"dns\"\nname = \"a b\"", "is not a domain name"),
        ("type = \"dns\"\nname = \"\"", "is not a domain name"),
        ("type = \"dns\"\nname = \"a..b\"", "is not a domain name"),
        ("type = \"dns\"\nname = \"a\"\nrecord = \"mx\"", "unknown record"),
        ("type = \"dns\"\nname = \"a\"\nserver = \"ns.example.net\"", "an IP address"),
        ("type = \"dns\"\nname = \"a\"\nmin_ttl = \"0s\"", "out of range"),
        ("type = \"dns\"\nname = \"a\"\nmin_ttl = \"2m\"\nmax_ttl = \"1m\"", "longer than max_ttl"),
        ("type = \"dns\"\nname = \"a\"\nallow_empty = \"yes\"", "expected a boolean"),
    ] {
        let errors = bad(&format!("{TOP}{DOOR}{SERVICE}[service.discovery]\n{keys}\n"));
        assert_eq!(errors.0.len(), 1, "{keys}\n{errors}");
        let error = &errors.0[0];
        assert!(error.to_string().contains(told), "{keys}\n{error}\nlacks: {told}");
        assert!(error.line.is_some() && error.help.is_some(), "{error}");
    }
    let l2 = SERVICE.replace("ipip", "l2").replace("gue", "l2");
    let keys = "type = \"dns\"\nname = \"a\"\nrecord = \"aaaa\"";
    let errors = bad(&format!("{TOP}{l2}[service.discovery]\n{keys}\n"));
    assert!(errors.to_string().contains("addresses of the other family"), "{errors}");
}

#[test]
fn nobody_registers_without_a_door_or_a_word() {
    let errors = bad(&format!("{TOP}{SERVICE}[service.discovery]\ntype = \"register\"\n"));
    assert!(errors.to_string().contains("there is no [api.register]"), "{errors}");
    for (keys, told) in [
        ("listen = \"10.0.0.2:9701\"", "neither `token_file` nor `client_ca`"),
        ("token_file = \"/t\"", "listen: required key is missing"),
        ("listen = \"10.0.0.2:9701\"\ntoken_file = \"/t\"\ntls_cert = \"/c\"", "needs `tls_key`"),
        ("listen = \"10.0.0.2:9701\"\ntoken_file = \"/t\"\ntls_key = \"/c\"", "needs `tls_cert`"),
        ("listen = \"10.0.0.2:9701\"\nclient_ca = \"/c\"", "needs `tls_cert`"),
    ] {
        let errors = bad(&format!("{TOP}[api.register]\n{keys}\n"));
        assert_eq!(errors.0.len(), 1, "{keys}\n{errors}");
        assert!(errors.to_string().contains(told), "{keys}\n{errors}\nlacks: {told}");
    }
}
