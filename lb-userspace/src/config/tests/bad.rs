//! What is refused: each mistake with its line, its key and its words.

use super::{SERVICE, TOP, bad, good};
use crate::config::{ErrorKind, check, load};

/// Each text has one mistake.
fn refused(prefix: &str, cases: &[(&str, usize, &str, &str)]) {
    for (text, line, key, fragment) in cases {
        let errors = bad(&format!("{prefix}{text}\n"));
        let [error] = &errors.0[..] else { panic!("{text}\n{errors}") };
        assert_eq!((error.line, error.key.as_str()), (Some(*line), *key), "{text}\n{error}");
        assert!(error.to_string().contains(fragment), "{text}\n{error}\nlacks: {fragment}");
        assert!(error.kind == ErrorKind::Syntax || error.help.is_some(), "{error}");
    }
}

#[test]
fn at_the_top() {
    refused(
        TOP,
        &[
            ("interface = 1", 2, "interface", "did you mean `interfaces`?"),
            ("vip = \"203.0.113.10:80\"", 2, "vip", "belongs in [[service]]"),
            ("quux = 1", 2, "quux", "allowed here: interfaces, xdp_mode"),
            ("xdp_mode = \"Native\"", 2, "xdp_mode", "did you mean \"native\"?"),
            ("xdp_mode = true", 2, "xdp_mode", "expected text, found the boolean true"),
            ("hash_seed = 7", 2, "hash_seed", "expected text, found the integer 7"),
            ("hash_seed = \"5eed\"", 2, "hash_seed", "not a seed"),
            ("hash_seed = \"0x\"", 2, "hash_seed", "not a seed"),
            ("hash_seed = \"0x+1\"", 2, "hash_seed", "not a seed"),
            ("hash_seed = \"0x10000000000000000\"", 2, "hash_seed", "1 to 16 hex digits"),
            ("next_hop = \"01:00:5e:00:00:01\"", 2, "next_hop", "multicast"),
            ("next_hop = \"none\"", 2, "next_hop", "not a MAC address"),
            ("pin_path = \"xlb\"", 2, "pin_path", "not an absolute path"),
            ("state_file = \"\"", 2, "state_file", "not an absolute path"),
            ("state_file = \"/a\\u0000b\"", 2, "state_file", "zero byte"),
            ("source_ipv4 = \"2001:db8::1\"", 2, "source_ipv4", "an IPv4 address"),
            ("source_ipv4 = \"10.0.0.0/8\"", 2, "source_ipv4", "an IPv4 address"),
            ("source_ipv4 = \"127.0.0.1\"", 2, "source_ipv4", "loopback"),
            ("source_ipv6 = \"::ffff:10.0.0.1\"", 2, "source_ipv6", "IPv4-mapped"),
            ("flow_capacity = 0", 2, "flow_capacity", "from 1024 to 67108864"),
            ("flow_capacity = 1.5", 2, "flow_capacity", "found a float (1.5)"),
            ("on_event = []", 2, "on_event", "no command"),
            ("on_event = \"/bin/true\"", 2, "on_event", "expected a list of texts"),
            ("on_event = [\"/bin/true\", 1]", 2, "on_event", "found the integer 1"),
            ("on_event = [\"./tell\"]", 2, "on_event", "neither an absolute path"),
            ("on_event = [\"/bin/x\\u0000\"]", 2, "on_event", "zero byte"),
            ("on_event_timeout = \"1h\"", 2, "on_event_timeout", "out of range"),
            ("api = 1", 2, "api", "write it as [api]"),
            ("fullnat = 1", 2, "fullnat", "write it as [fullnat]"),
            ("[fullnat]\npool_ipv4 = []", 3, "fullnat.pool_ipv4", "1 to 64 IPv4 addresses"),
            ("[fullnat]\npool_ipv4 = \"192.0.2.1\"", 3, "fullnat.pool_ipv4", "a list of texts"),
            ("[fullnat]\npool_ipv4 = [\"fd00::1\"]", 3, "fullnat.pool_ipv4[0]", "IPv4 addresses"),
            (
                "[fullnat]\npool_ipv6 = [\"fd00::1\", \"fd00:0::1\"]",
                3,
                "fullnat.pool_ipv6[1]",
                "already",
            ),
            ("[fullnat]\npool_ipv4 = [\"127.0.0.1\"]", 3, "fullnat.pool_ipv4[0]", "loopback"),
            ("[fullnat]\nports = \"1024\"", 3, "fullnat.ports", "\"1024-32767\""),
            ("[fullnat]\nports = \"1024-1050\"", 3, "fullnat.ports", "has 27 ports"),
            ("[fullnat]\nflow_capacity = 1", 3, "fullnat.flow_capacity", "from 1024"),
            (
                "[fullnat]\nopening_timeout = \"0s\"",
                3,
                "fullnat.opening_timeout",
                "\"1s\" to \"10m\"",
            ),
            ("[fullnat]\nclosing_timeout = 60", 3, "fullnat.closing_timeout", "expected text"),
            ("[fullnat]\nport = \"1-99\"", 3, "fullnat.port", "did you mean `ports`?"),
            ("[api]\nsocket = \"xlb.sock\"", 3, "api.socket", "not an absolute path"),
            ("[api]\nmetrics = \"localhost:9700\"", 3, "api.metrics", "IP address and a port"),
            ("[api]\nmetrics = \"127.0.0.1:0\"", 3, "api.metrics", "IP address and a port"),
            ("[api]\nsoket = \"/x\"", 3, "api.soket", "did you mean `socket`?"),
            ("service = [1]", 2, "service[0]", "expected a table, found the integer 1"),
        ],
    );
    let socket = format!("[api]\nsocket = \"/{}\"", "x".repeat(107));
    refused(TOP, &[(&socket, 3, "api.socket", "the path has 108 bytes")]);
}

/// A service in single brackets is told, and what is wrong in it, too.
#[test]
fn single_brackets() {
    let errors = bad(&format!(
        "{TOP}[service]\nname = \"web\"\nvip = \"203.0.113.10\"\nforward = \"l2\"\n\
         [service.backend]\nadress = \"10.0.0.1\"\n"
    ));
    let found: Vec<_> = errors.0.iter().map(|e| (e.line.unwrap(), e.key.as_str())).collect();
    assert_eq!(
        found,
        [
            (2, "service"),
            (4, "service[0] \"web\".vip"),
            (6, "service[0] \"web\".backend"),
            (6, "service[0] \"web\".backend[0].address"),
            (7, "service[0] \"web\".backend[0].adress"),
        ],
        "{errors}"
    );
    let said = errors.to_string();
    for fragment in ["single brackets", "[[service]]", "[[service.backend]]"] {
        assert!(said.contains(fragment), "{said}");
    }
}

#[test]
fn interfaces() {
    refused(
        "",
        &[
            ("", 1, "interfaces", "required key is missing"),
            ("interfaces = []", 1, "interfaces", "no interface"),
            ("interfaces = \"eth0\"", 1, "interfaces", "expected a list of texts"),
            ("interfaces = [\n  \"a\",\n  \"b\",\n  \"a\"]", 4, "interfaces[2]", "already there"),
            ("interfaces = [\"eth0\", 1]", 1, "interfaces[1]", "expected text"),
            ("interfaces = [\"\"]", 1, "interfaces[0]", "not a name of an interface"),
            ("interfaces = [\"a/b\"]", 1, "interfaces[0]", "not a name of an interface"),
            ("interfaces = [\"sixteen-letters0\"]", 1, "interfaces[0]", "1 to 15"),
        ],
    );
}

#[test]
fn in_a_service() {
    const WEB: &str = "service[0] \"web\"";
    let key = |name: &str| format!("{WEB}.{name}");
    let cases = [
        ("foward = \"l2\"", 6, key("foward"), "did you mean `forward`?"),
        ("protocol = \"sctp\"", 6, key("protocol"), "allowed: \"tcp\", \"udp\""),
        ("ring_size = 65536", 6, key("ring_size"), "the nearest primes: 65521 and 65537"),
        ("ring_size = 1", 6, key("ring_size"), "1 is out of range"),
        ("ring_size = 1048574", 6, key("ring_size"), "2 to 1048573"),
        ("ring_size = \"65537\"", 6, key("ring_size"), "expected an integer, found the text"),
        ("ring_size = 99999999999999999999999999999999999999999", 6, key("ring_size"), "integer"),
        ("affinity = \"client\"", 6, key("affinity"), "\"flow\", \"source\", \"packet\""),
        ("udp_timeout = 60", 6, key("udp_timeout"), "expected text"),
        ("udp_timeout = \"60\"", 6, key("udp_timeout"), "a whole number and a unit"),
        ("tcp_idle = \"0s\"", 6, key("tcp_idle"), "\"1s\" to \"168h\""),
        ("tls = { }", 6, key("tls"), "unknown key"),
        ("name = \"x\"", 6, "name".to_owned(), "duplicate key"),
        ("health = \"tcp\"", 6, key("health"), "write it as [service.health]"),
        ("[service.health]", 6, key("health.type"), "required key is missing"),
        ("[[service.backend]]", 6, key("backend[0].address"), "required key is missing"),
        (
            "ring_size = 2\nbackend = [{address = \"10.0.0.1\"}, {address = \"10.0.0.2\"}, \
             {address = \"10.0.0.3\"}]",
            6,
            key("ring_size"),
            "2 slots can't hold 3 backends",
        ),
    ];
    for (text, line, key, fragment) in &cases {
        refused(&format!("{TOP}{SERVICE}"), &[(text, *line, key, fragment)]);
    }
}

#[test]
fn names_and_vips() {
    let service = |name: &str, vip: &str, rest: &str| {
        format!("[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nforward = \"ipip\"\n{rest}")
    };
    let long = "x".repeat(64);
    for name in ["", "a b", "a\u{a0}b", &long] {
        let key = format!("service[0] {name:?}.name");
        refused(TOP, &[(&service(name, "10.9.9.9:80", ""), 3, &key, "not a name of a service")]);
    }
    for (vip, fragment) in [
        ("203.0.113.10", "has no port"),
        ("203.0.113.10:0", "a port from 1 to 65535"),
        ("203.0.113.0/24:80", "not an IP address"),
        ("2001:db8::10:443", "\"[2001:db8::10]:443\""),
        ("224.0.0.1:80", "multicast"),
        ("127.0.0.1:80", "loopback"),
        ("0.0.0.0:80", "unspecified"),
        ("255.255.255.255:80", "broadcast"),
        ("[::ffff:203.0.113.10]:80", "IPv4-mapped"),
    ] {
        refused(TOP, &[(&service("a", vip, ""), 4, "service[0] \"a\".vip", fragment)]);
    }
    let second = service("web", "203.0.113.11:80", "");
    let key = "service[1] \"web\".name";
    let fragment = "already there, in service[0] \"web\"";
    refused(&format!("{TOP}{SERVICE}"), &[(&second, 7, key, fragment)]);
    let second = service("web2", "203.0.113.10:80", "protocol = \"tcp\"");
    let key = "service[1] \"web2\".vip";
    let fragment = "203.0.113.10:80 tcp is already there, in service[0] \"web\"";
    refused(&format!("{TOP}{SERVICE}"), &[(&second, 8, key, fragment)]);
    let two = [service("a", "[2001:db8:0::1]:*", ""), service("b", "[2001:db8::1]:*", "")];
    refused(TOP, &[(&two.concat(), 8, "service[1] \"b\".vip", "already there")]);
}

#[test]
fn forward_modes_that_nobody_has() {
    let service = |mode| {
        format!("[[service]]\nname = \"a\"\nvip = \"203.0.113.1:80\"\nforward = \"{mode}\"\n")
    };
    let errors = bad(&format!("{TOP}{}", service("fulnat")));
    let has = "\"l2\", \"ipip\", \"gue\", \"nat\", \"fullnat\"";
    let help = format!("did you mean \"fullnat\"? Allowed: {has}");
    assert_eq!(errors.0[0].help, Some(help));
    let key = "service[0] \"a\".forward";
    refused(TOP, &[(&service("gre"), 5, key, "unknown forward mode \"gre\"")]);
}

#[test]
fn in_a_backend() {
    let key = |name: &str| format!("service[0] \"web\".backend[0].{name}");
    for (text, line, name, fragment) in [
        ("address = \"10.0.0.256\"", 7, "address", "not an IP address"),
        ("address = \"web1.example\"", 7, "address", "not an IP address"),
        ("address = \"239.1.1.1\"", 7, "address", "multicast"),
        ("address = \"::1\"", 7, "address", "loopback"),
        ("address = \"::\"", 7, "address", "unspecified"),
        ("address = \"255.255.255.255\"", 7, "address", "broadcast"),
        ("address = \"::ffff:10.0.0.1\"", 7, "address", "IPv4-mapped"),
        ("address = \"203.0.113.10\"", 7, "address", "is the VIP itself"),
        ("address = \"10.0.0.1:8080\"", 7, "address", "the address alone: \"10.0.0.1\""),
        ("forward = \"gue\"\naddress = \"[2001:db8::1]:80\"", 8, "address", "has a port"),
        ("address = \"2001:db8::1\"\nforward = \"l2\"", 7, "address", "address families differ"),
        ("address = \"10.0.0.1\"\nweight = 65536", 8, "weight", "from 0 to 65535"),
        ("address = \"10.0.0.1\"\nweight = -1", 8, "weight", "-1 is out of range"),
        ("address = \"10.0.0.1\"\nweight = 1.0", 8, "weight", "a float"),
        ("address = \"10.0.0.1\"\nnext_hop = \"auto\"", 8, "next_hop", "not a MAC address"),
        ("address = \"10.0.0.1\"\nnext_hop = \"00:00:00:00:00:00\"", 8, "next_hop", "zero"),
        ("address = \"10.0.0.1\"\nforward = \"fulnat\"", 8, "forward", "unknown forward mode"),
        ("address = \"2001:db8::1\"\nforward = \"nat\"", 7, "address", "can't turn IPv4 packets"),
        ("address = \"2001:db8::1\"\nforward = \"nat\"", 7, "address", "forward = \"fullnat\""),
        ("address = \"10.0.0.1\"\nwieght = 1", 8, "wieght", "did you mean `weight`?"),
    ] {
        let text = format!("[[service.backend]]\n{text}");
        refused(&format!("{TOP}{SERVICE}"), &[(&text, line, &key(name), fragment)]);
    }
    let twice = "[[service.backend]]\naddress = \"2001:db8::1\"\n[[service.backend]]\naddress = \
                 \"2001:db8:0::1\"";
    let key = "service[0] \"web\".backend[1].address";
    let fragment = "2001:db8::1 is already there, in service[0] \"web\".backend[0]";
    refused(&format!("{TOP}{SERVICE}"), &[(twice, 9, key, fragment)]);
}

#[test]
fn in_a_health_check() {
    for (text, line, name, fragment) in [
        ("type = \"ping\"", 7, "type", "unknown health check"),
        ("type = \"tcp\"\npath = \"/\"", 8, "path", "a check of type \"tcp\" has no `path`"),
        ("type = \"tcp\"\nexpect_status = 200", 8, "expect_status", "type = \"http\""),
        ("type = \"tcp\"\nport = 0", 8, "port", "from 1 to 65535"),
        ("type = \"http\"\npath = \"healthz\"", 8, "path", "start with `/`"),
        ("type = \"http\"\npath = \"/a b\"", 8, "path", "can't stand in a request"),
        ("type = \"http\"\nhost = \"a\\r\\nX: y\"", 8, "host", "can't stand in a request"),
        ("type = \"http\"\nhost = \"http://a\"", 8, "host", "not a host"),
        ("type = \"http\"\nexpect_status = 99", 8, "expect_status", "from 100 to 599"),
        ("type = \"http\"\nexpect_status = \"2xx\"", 8, "expect_status", "not an HTTP status"),
        ("type = \"http\"\nexpect_status = \"299-200\"", 8, "expect_status", "ends before"),
        ("type = \"tcp\"\ninterval = \"1ms\"", 8, "interval", "\"10ms\" to \"1h\""),
        ("type = \"tcp\"\ntimeout = \"2s\"", 8, "timeout", "2s is longer than the interval 1s"),
        ("type = \"tcp\"\ntimeout = \"0ms\"", 8, "timeout", "out of range"),
        ("type = \"tcp\"\nrise = 0", 8, "rise", "from 1 to 100"),
        ("type = \"tcp\"\nfall = 101", 8, "fall", "from 1 to 100"),
        ("type = \"exec\"\ncommand = [\"/bin/true\"]\nvia = \"address\"", 9, "via", "no way"),
        ("type = \"none\"\nvia = \"vip\"", 8, "via", "sends no probes"),
        ("type = \"tcp\"\nvia = \"VIP\"", 8, "via", "unknown way of probes"),
        ("type = \"none\"\ntimeuot = \"1s\"", 8, "timeuot", "did you mean `timeout`?"),
        ("type = \"tcp\"\nfast_interval = \"2s\"", 8, "fast_interval", "longer than the interval"),
        ("type = \"tcp\"\nfast_interval = \"1ms\"", 8, "fast_interval", "from \"10ms\""),
        ("type = \"tcp\"\njitter = 10", 8, "jitter", "expected text"),
        ("type = \"tcp\"\njitter = \"60%\"", 8, "jitter", "from \"0%\" to \"50%\""),
        ("type = \"http\"\nmethod = \"get\"", 8, "method", "\"GET\", \"HEAD\""),
        ("type = \"http\"\nexpect_body = \"\"", 8, "expect_body", "1 to 1024 bytes"),
        ("type = \"http\"\nexpect_body = \"a\"\nmethod = \"HEAD\"", 8, "expect_body", "no body"),
        ("type = \"http\"\nexpect_header = \"a b\"", 8, "expect_header", "not a header's name"),
        ("type = \"http\"\nexpect_header = \"a: \\n\\u0007b\"", 8, "expect_header", "value"),
        ("type = \"http\"\nverify = false", 8, "verify", "type = \"https\" or \"grpc\""),
        ("type = \"https\"\nverify = \"no\"", 8, "verify", "expected a boolean"),
        ("type = \"https\"\nca_file = \"ca.pem\"", 8, "ca_file", "not an absolute path"),
        ("type = \"https\"\nca_file = \"/a\"\nverify = false", 8, "ca_file", "no authority"),
        ("type = \"https\"\nserver_name = \"a b\"", 8, "server_name", "not a server's name"),
        ("type = \"https\"\nhost = \"a..b\"", 8, "host", "say whom it is for: server_name"),
        ("type = \"https\"\nalpn = [\"h3\"]", 8, "alpn", "\"http/1.1\", \"h2\""),
        ("type = \"https\"\nalpn = [\"h2\", \"h2\"]", 8, "alpn", "already there"),
        ("type = \"https\"\nalpn = \"h2\"", 8, "alpn", "expected a list of texts"),
        ("type = \"https\"\ntls = true", 8, "tls", "a check of type \"https\" has no `tls`"),
        ("type = \"grpc\"\nverify = false", 8, "verify", "a check without `tls`"),
        ("type = \"grpc\"\ntls = true\nalpn = [\"h2\"]", 9, "alpn", "type = \"https\""),
        ("type = \"grpc\"\ngrpc_service = \"a b\"", 8, "grpc_service", "not a service's name"),
        ("type = \"udp\"", 6, "send", "a check of type \"udp\" needs it"),
        ("type = \"udp\"\nsend = \"\"", 8, "send", "it has 0 bytes"),
        ("type = \"udp\"\nsend = \"hex:0\"", 8, "send", "pairs of hexadecimal digits"),
        ("type = \"dns\"", 6, "query", "a check of type \"dns\" needs it"),
        ("type = \"dns\"\nquery = \"a..b\"", 8, "query", "not a domain name"),
        ("type = \"dns\"\nquery = \"a\"\nquery_type = \"ANY\"", 9, "query_type", "\"AAAA\""),
        ("type = \"dns\"\nquery = \"a\"\nexpect_rcode = \"OK\"", 9, "expect_rcode", "NXDOMAIN"),
        ("type = \"exec\"", 6, "command", "a check of type \"exec\" needs it"),
        ("type = \"exec\"\ncommand = []", 8, "command", "no program"),
        ("type = \"exec\"\ncommand = [\"true\"]", 8, "command", "not an absolute path"),
        ("type = \"exec\"\ncommand = \"/bin/true\"", 8, "command", "expected a list of texts"),
    ] {
        let text = format!("[service.health]\n{text}");
        let key = format!("service[0] \"web\".health.{name}");
        refused(&format!("{TOP}{SERVICE}"), &[(&text, line, &key, fragment)]);
    }
    let any_port = "[[service]]\nname = \"a\"\nvip = \"203.0.113.1:*\"\nforward = \
                    \"l2\"\n[service.health]\ntype = \"tcp\"";
    refused(TOP, &[(any_port, 6, "service[0] \"a\".health.port", "takes any port")]);
}

#[test]
fn syntax() {
    refused(
        TOP,
        &[
            ("xdp_mode = native", 2, "", "text stands in quotes: \"native\""),
            ("xdp_mode =", 2, "", "not TOML"),
            ("source_ipv4 = 10.0.0.1", 2, "", "text stands in quotes: \"10.0.0.1\""),
            ("\n\n[api", 4, "", "unclosed table"),
            ("[api]\nsocket = \"/run", 3, "", "not TOML: "),
        ],
    );
}

/// A text that is no config at all is not told line by line.
#[test]
fn another_sort_of_file() {
    let text = "a line of text\n".repeat(147);
    let errors = bad(&text);
    assert_eq!(errors.0.len(), 21, "{errors}");
    assert!(errors.render().contains("not TOML, here and in 126 places more"), "{errors}");
    // A config with many mistakes is told of all others as well.
    let text = format!("{TOP}xdp_mode = \"fast\"\n{}", "a line of text\n".repeat(30));
    let rendered = bad(&text).render();
    assert!(rendered.contains("mend the first ones") && rendered.contains("fast"), "{rendered}");
}

/// One run tells all: of the syntax, of every section, in the file's order.
#[test]
fn all_mistakes_at_once() {
    let errors = bad(r#"interfaces = ["eth0", "eth0"]
xdp_mod = "auto"
hash_seed = nothing
[api]
socket = 5
[[service]]
name = "web"
vip = "203.0.113.10"
forward = "half-nat"
ring_size = 4
[service.health]
type = "tcp"
fall = 0
[[service.backend]]
address = "10.0.0.1"
[[service.backend]]
address = "10.0.0.1"
weight = 70000
[[service]]
name = "web"
vip = "203.0.113.11:80"
forward = "l2"
[[service.backend]]
address = "2001:db8::1"
"#);
    let found: Vec<_> = errors.0.iter().map(|error| error.line.unwrap()).collect();
    assert_eq!(found, [1, 2, 3, 5, 8, 9, 10, 13, 17, 18, 20, 24], "{errors}");
    let rendered = errors.render();
    assert!(rendered.starts_with("xlb.toml:1:23: interfaces[1]: "), "{rendered}");
    assert!(rendered.contains("\n  help: "), "{rendered}");
    assert!(rendered.ends_with("\n12 errors"), "{rendered}");
}

/// What no directory and no map can hold is told before it is tried.
#[test]
fn more_than_one_balancer_takes() {
    let service = |number: usize, vips: usize, rest: &str| {
        let (vip, port) = (number % vips, 1 + number / vips);
        format!(
            "[[service]]\nname = \"s{number}\"\nvip = \"203.0.{}.{}:{port}\"\nforward = \
             \"ipip\"\n{rest}",
            vip / 256,
            vip % 256,
        )
    };
    let text = |services: usize, vips, rest: &str| -> String {
        let services = (0..services).map(|number| service(number, vips, rest));
        std::iter::once(TOP.to_owned()).chain(services).collect()
    };
    good(&text(4096, 2048, ""));
    let cases = [
        (text(4100, 2000, ""), 4096, 3, "vip", "4096 services"),
        (text(2060, 4000, ""), 2048, 3, "vip", "2048 VIPs"),
        (text(600, 600, "ring_size = 1048573\n"), 512, 5, "ring_size", "536870912"),
    ];
    for (text, number, line, key, fragment) in cases {
        let errors = bad(&text);
        let [error] = &errors.0[..] else { panic!("{errors}") };
        let lines = if key == "ring_size" { 5 } else { 4 };
        assert_eq!(error.line, Some(1 + number * lines + line), "{error}");
        assert_eq!(error.key, format!("service[{number}] \"s{number}\".{key}"));
        let said = error.to_string();
        let fragment = fragment.split(' ').all(|word| said.contains(word));
        assert!(fragment, "{said}");
    }
}

/// Depth can't exhaust the stack, and many mistakes don't take forever.
#[test]
fn hostile_sizes() {
    for text in [
        format!("x = {}", "[".repeat(100_000)),
        format!("{} = 1", "a.".repeat(100_000) + "a"),
        format!("[{}]", "a.".repeat(100_000) + "a"),
        format!("x = {}", "{ a = ".repeat(100_000)),
    ] {
        bad(&format!("{TOP}{text}\n"));
    }
    let backend = "[[service.backend]]\naddress = \"10.0.0.1\"\n";
    let errors = bad(&format!("{TOP}{SERVICE}{}", backend.repeat(5_000)));
    assert_eq!(errors.0.len(), 4_999);
}

#[test]
fn columns_count_characters() {
    let errors = bad("interfaces = [\"ä\", 1]\n");
    let places: Vec<_> = errors.0.iter().map(|error| (error.line, error.column)).collect();
    assert_eq!(places, [(Some(1), Some(15)), (Some(1), Some(20))], "{errors}");
}

#[test]
fn files_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let missing = load(&directory.path().join("missing.toml")).unwrap_err();
    assert_eq!(missing.0[0].kind, ErrorKind::Unreadable);
    assert!(missing.to_string().contains("missing.toml: can't read the config"), "{missing}");
    assert!(load(directory.path()).is_err());

    let path = directory.path().join("latin1.toml");
    std::fs::write(&path, b"interfaces = [\"eth0\"]\n# caf\xe9\n").unwrap();
    let errors = load(&path).unwrap_err();
    assert_eq!((errors.0[0].line, errors.0[0].column), (Some(2), Some(6)), "{errors}");
}

#[test]
fn what_check_says() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("xlb.toml");
    std::fs::write(&path, format!("{TOP}{SERVICE}")).unwrap();
    let checked = check::run(&path, false);
    assert_eq!(checked.status, 0);
    assert!(checked.text.ends_with("xlb.toml: good: 1 service, 0 backends"), "{checked:?}");
    let json: serde_json::Value = serde_json::from_str(&check::run(&path, true).text).unwrap();
    assert_eq!((&json["ok"], &json["services"]), (&true.into(), &1.into()));

    std::fs::write(&path, format!("{TOP}{SERVICE}wat = 1\n")).unwrap();
    let checked = check::run(&path, false);
    assert_eq!(checked.status, 2);
    assert!(checked.text.ends_with("\n1 error"), "{checked:?}");
    let checked = check::run(&path, true);
    assert_eq!(checked.status, 2);
    let json: serde_json::Value = serde_json::from_str(&checked.text).unwrap();
    let error = &json["errors"][0];
    assert_eq!((&json["ok"], &error["line"]), (&false.into(), &6.into()));
    assert_eq!(error["kind"], "unknown_key");
    assert_eq!(error["key"], "service[0] \"web\".wat");
}

/// Under `nat` an answer's source says whose it is.
#[test]
fn answers_that_could_be_anybodys() {
    let service = |name: &str, vip: &str, more: &str, backend: &str| {
        format!(
            "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nforward = \"nat\"\n{more}\
             [[service.backend]]\naddress = \"{backend}\"\n"
        )
    };
    let one = service("a", "203.0.113.1:80", "", "10.0.0.1:8080");
    let other = service("b", "203.0.113.2:80", "", "10.0.0.1:8080");
    let key = "service[1] \"b\".backend[0].address";
    refused(&format!("{TOP}{one}"), &[(&other, 13, key, "those of service \"a\"")]);
    let any = service("a", "203.0.113.1:*", "", "10.0.0.1:8080");
    refused(TOP, &[(&any, 7, "service[0] \"a\".backend[0].address", "which port it is for")]);
    let health = "[service.health]\ntype = \"tcp\"\nvia = \"vip\"\n";
    let probed = service("a", "203.0.113.1:80", health, "10.0.0.1");
    refused(TOP, &[(&probed, 6, "service[0] \"a\".health.via", "they don't have it")]);
}
