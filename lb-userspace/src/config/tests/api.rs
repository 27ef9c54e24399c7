//! Services and backends that come as JSON.

use serde_json::json;

use super::{SERVICE, TOP, good};
use crate::config::{
    BackendSpec, ConfigErrors, ErrorKind, ServiceSpec, backend_from_json, load, service_from_json,
};

fn one(errors: &ConfigErrors) -> (ErrorKind, &str) {
    assert_eq!(errors.0.len(), 1, "{errors}");
    assert_eq!((errors.0[0].line, &errors.0[0].file), (None, &None));
    (errors.0[0].kind, &errors.0[0].key)
}

fn web() -> ServiceSpec {
    ServiceSpec {
        name: "web".to_owned(),
        vip: "203.0.113.10:80".to_owned(),
        forward: "ipip".to_owned(),
        ..ServiceSpec::default()
    }
}

#[test]
fn a_spec_and_a_file_become_the_same() {
    let config = good(&format!("{TOP}{SERVICE}"));
    assert_eq!(web().check(&[]).unwrap(), config.services[0]);
}

/// The state file keeps what was configured, through JSON and back.
#[test]
fn services_survive_a_round_trip() {
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    let mut services = load(&examples.join("web.toml")).unwrap().services;
    services.extend(load(&examples.join("dns.toml")).unwrap().services);
    for service in services {
        let json = serde_json::to_string(&ServiceSpec::from(&service)).unwrap();
        let spec: ServiceSpec = serde_json::from_str(&json).unwrap();
        assert_eq!(spec.check(&[]).unwrap(), service, "{json}");
    }
}

/// Each type of check, with every key that it has.
#[test]
fn health_checks_survive_a_round_trip() {
    let checks = [
        "type = \"tcp\"\nport = 81\njitter = \"0%\"\nfast_interval = \"20ms\"\nrise = 1\nfall = 7",
        "type = \"http\"\nhost = \"a:81\"\npath = \"/x?y\"\nmethod = \"OPTIONS\"\nexpect_body = \"a\\nb\"\n\
         expect_header = \"X-A:b c\"\nexpect_status = \"200, 404-405\"",
        "type = \"http\"\nmethod = \"HEAD\"\nexpect_header = \"X-A\"",
        "type = \"https\"",
        "type = \"https\"\nverify = false\nhost = \"a_b.example:81\"\nalpn = [\"h2\", \"http/1.1\"]",
        "type = \"https\"\nca_file = \"/etc/ca.pem\"\nserver_name = \"b.example\"\nalpn = []",
        "type = \"grpc\"\nhost = \"a.example\"\ngrpc_service = \"a.B\"",
        "type = \"grpc\"\ntls = true\nca_file = \"/etc/ca.pem\"\nserver_name = \"192.0.2.1\"",
        "type = \"udp\"\nsend = \"hex:00ff\"\nexpect = \"hex:6865783a\"",
        "type = \"udp\"\nsend = \"grüß\\r\\n\"",
        "type = \"dns\"\nquery = \"example.com.\"\nquery_type = \"TXT\"\nexpect_rcode = \"NXDOMAIN\"\n\
         expect_answer = \"a b\"",
    ];
    let types = checks.iter().map(|check| check.lines().next().unwrap_or_default());
    assert_eq!(
        types.collect::<std::collections::BTreeSet<_>>().len(),
        6,
        "all but \"exec\" and \"none\""
    );
    for check in checks {
        let text = format!("{TOP}{SERVICE}[service.health]\n{check}\n");
        let service = good(&text).services.remove(0);
        let json = serde_json::to_string(&ServiceSpec::from(&service)).unwrap();
        let spec: ServiceSpec = serde_json::from_str(&json).unwrap();
        assert_eq!(spec.check(&[]).unwrap(), service, "{json}");
    }
}

/// Who may use the socket may change services, but not run programs as the agent's user.
#[test]
fn programs_are_only_run_for_the_file() {
    let exec = "[service.health]\ntype = \"exec\"\ncommand = [\"/bin/x\", \"\", \"$c\"]\n";
    let service = good(&format!("{TOP}{SERVICE}{exec}")).services.remove(0);
    let spec = ServiceSpec::from(&service);
    assert_eq!(serde_json::to_value(&spec).unwrap()["health"]["command"][0], "/bin/x");
    let errors = spec.check(&[]).unwrap_err();
    assert_eq!(one(&errors), (ErrorKind::Unsupported, "service \"web\".health.type"));
}

#[test]
fn a_service_must_differ_from_those_that_run() {
    let running = [web().check(&[]).unwrap()];
    let errors =
        ServiceSpec { vip: "203.0.113.11:80".to_owned(), ..web() }.check(&running).unwrap_err();
    assert_eq!(one(&errors), (ErrorKind::Duplicate, "service \"web\".name"));
    let errors = ServiceSpec { name: "web2".to_owned(), ..web() }.check(&running).unwrap_err();
    assert_eq!(one(&errors), (ErrorKind::Duplicate, "service \"web2\".vip"));
    ServiceSpec { name: "web2".to_owned(), protocol: Some("udp".to_owned()), ..web() }
        .check(&running)
        .unwrap();
}

#[test]
fn a_backend_must_fit_its_service() {
    let backend = |address: &str| BackendSpec { address: address.to_owned(), ..Default::default() };
    let mut service =
        ServiceSpec { forward: "l2".to_owned(), ring_size: Some(2), ..web() }.check(&[]).unwrap();
    let key = "service \"web\".backend.address";
    let errors = backend("2001:db8::1").check(&service, &[]).unwrap_err();
    assert_eq!(one(&errors), (ErrorKind::Impossible, key));
    service.backends.push(backend("10.0.0.1").check(&service, &[]).unwrap());
    let errors = backend("10.0.0.1").check(&service, &[]).unwrap_err();
    assert_eq!(one(&errors), (ErrorKind::Duplicate, key));
    service.backends.push(backend("10.0.0.2").check(&service, &[]).unwrap());
    let errors = backend("10.0.0.3").check(&service, &[]).unwrap_err();
    assert_eq!(one(&errors), (ErrorKind::Impossible, "service \"web\".ring_size"));
    let heavy = BackendSpec { weight: Some(70_000), ..backend("10.0.0.1") };
    service.backends.clear();
    let errors = heavy.check(&service, &[]).unwrap_err();
    assert_eq!(one(&errors), (ErrorKind::BadValue, "service \"web\".backend.weight"));
}

#[test]
fn json_may_hold_anything() {
    let errors = service_from_json(
        &json!({
            "name": "web", "vip": null, "forward": "l2", "portocol": "tcp", "ring_size": 1.5,
            "backend": [{"address": "10.0.0.1", "wait": 1}, 7],
        }),
        &[],
    )
    .unwrap_err();
    let mut found: Vec<_> = errors.0.iter().map(|e| (e.key.as_str(), e.kind)).collect();
    found.sort_by_key(|(key, _)| *key);
    assert_eq!(
        found,
        [
            ("service \"web\".backend[0].wait", ErrorKind::UnknownKey),
            ("service \"web\".backend[1]", ErrorKind::WrongType),
            ("service \"web\".portocol", ErrorKind::UnknownKey),
            ("service \"web\".ring_size", ErrorKind::WrongType),
            ("service \"web\".vip", ErrorKind::MissingKey),
        ]
    );
    for json in [json!(null), json!([]), json!("web"), json!(true)] {
        assert!(service_from_json(&json, &[]).is_err());
        assert!(backend_from_json(&json, &web().check(&[]).unwrap(), &[]).is_err());
    }
    assert!(serde_json::from_value::<ServiceSpec>(json!({"name": "a", "nmae": "b"})).is_err());
}
