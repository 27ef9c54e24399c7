//! `[service.agent_check]` and `[service.load]`.

use std::time::Duration;

use super::{SERVICE, TOP, bad, good};
use crate::{
    config::ServiceSpec,
    live::{LoadPolicy, LoadSource},
};

const HTTP: &str = "[service.health]\ntype = \"http\"\n";
const AGENT: &str = "[service.agent_check]\nport = 8081\n";

fn load(text: &str) -> LoadPolicy {
    let config = good(&format!("{TOP}{SERVICE}{text}"));
    let service = &config.services[0];
    // What the API and the state file have is the same.
    assert_eq!(&ServiceSpec::from(service).check(&[]).unwrap(), service);
    service.live.load.clone().unwrap()
}

#[test]
fn sources_are_read() {
    let found = load(&format!("{HTTP}[service.load]\nsource = \"orca\""));
    assert_eq!(found, LoadPolicy::default());
    let keys = "smoothing = \"5s\"\nfloor = \"20%\"\nmax_step = \"2%\"\nstale_after = \"1m\"";
    let found = load(&format!("{AGENT}[service.load]\nsource = \"agent\"\n{keys}"));
    let expected = LoadPolicy {
        source: LoadSource::Agent,
        smoothing: Duration::from_secs(5),
        floor_permille: 200,
        max_step_permille: 20,
        stale_after: Duration::from_secs(60),
    };
    assert_eq!(found, expected);
}

#[test]
fn nobody_who_tells_is_a_mistake() {
    for (text, line, expected) in [
        ("[service.load]\nsource = \"orca\"", 7, "a check by HTTP"),
        ("[service.agent_check]\nport = 1\n[service.load]\nsource = \"orca\"", 9, "check by HTTP"),
        ("[service.load]\nsource = \"agent\"", 7, "add [service.agent_check]"),
        ("[service.load]\nsource = \"idle\"", 7, "\"orca\", \"agent\""),
    ] {
        let errors = bad(&format!("{TOP}{SERVICE}{text}"));
        let told = errors.to_string();
        assert!(told.contains(&format!("xlb.toml:{line}")) && told.contains(expected), "{told}");
    }
}
