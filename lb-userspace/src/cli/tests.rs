//! The command line from the words that are typed to what is printed, against an agent on a real
//! socket.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::mpsc,
    time::{Duration, SystemTime},
};

use anstream::StripStream;
use serde_json::Value;
use tokio::runtime::{self, Runtime};

use super::{command::GROUPS, *};
use crate::{
    api::{Cause, EventKind, News, testing::TestAgent},
    model::BackendKey,
};

/// What a command line gave.
#[derive(Debug)]
struct Said {
    status: u8,
    out: String,
    err: String,
}

impl Said {
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.status, DONE, "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn say(words: &[&str]) -> Said {
    let (mut out, mut err) = (StripStream::new(Vec::new()), StripStream::new(Vec::new()));
    let words = std::iter::once(&"xlb").chain(words);
    let status = respond(words, &mut out, &mut err, |verb, _| anyhow::bail!("{verb:?} came here"));
    let text = |stream: StripStream<Vec<u8>>| String::from_utf8(stream.into_inner()).unwrap();
    Said { status, out: text(out), err: text(err) }
}

/// An agent, and the runtime that it lives in.
struct Lab {
    runtime: Runtime,
    agent: TestAgent,
}

impl Lab {
    fn new() -> Self {
        let runtime =
            runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let agent = runtime.block_on(async { TestAgent::start() });
        Self { runtime, agent }
    }

    fn with_web() -> Self {
        let lab = Self::new();
        let added = lab.say(&[
            "service",
            "add",
            "web",
            "--vip",
            "203.0.113.10:80",
            "--forward",
            "ipip",
            "--health",
            "http:/healthz",
            "--backend",
            "10.0.0.11",
            "--backend",
            "10.0.0.12=300",
        ]);
        assert_eq!(added.status, DONE, "{added:?}");
        lab
    }

    fn say(&self, words: &[&str]) -> Said {
        let socket = self.agent.socket();
        let socket = ["--socket", socket.to_str().unwrap()];
        say(&[words, &socket].concat())
    }

    fn json(&self, words: &[&str]) -> Value {
        self.say(&[words, &["--json"]].concat()).json()
    }
}

#[test]
fn services_are_added_shown_and_removed() {
    let lab = Lab::with_web();
    let listed = lab.say(&["service", "list"]).out;
    assert!(listed.contains("web      203.0.113.10:80  tcp       ipip"), "{listed}");
    assert!(listed.contains("2/2"), "{listed}");
    let shown = lab.say(&["service", "show", "web"]).out;
    assert!(shown.contains("web  203.0.113.10:80 tcp, ipip, affinity flow, 251 slots"), "{shown}");
    assert!(shown.contains("75.0 %") && shown.contains("1.23 M"), "{shown}");
    assert_eq!(lab.json(&["service", "show", "web"])["backends"][1]["weight"], 300);
    assert_eq!(lab.json(&["service", "list"])[0]["name"], "web");

    assert_eq!(lab.say(&["service", "remove", "web"]).out, "service web is removed\n");
    assert_eq!(lab.json(&["service", "list"]), Value::Array(Vec::new()));
    assert!(lab.say(&["service", "list"]).out.contains("xlb service add"));
}

#[test]
fn backends_are_changed_live() {
    let lab = Lab::with_web();
    let address = "10.0.0.13";
    let add =
        ["backend", "add", "web", address, "--weight", "50", "--next-hop", "02:00:00:00:00:13"];
    assert_eq!(lab.json(&[&add[..], &["--forward", "gue"]].concat())["forward"], "gue");
    assert_eq!(lab.json(&["backend", "set", "web", address, "--weight", "60"])["weight"], 60);
    let drained = lab.json(&["backend", "drain", "web", address]);
    assert_eq!((&drained["state"], &drained["live_weight"]), (&"draining".into(), &0.0.into()));
    assert_eq!(lab.json(&["backend", "undrain", "web", address])["state"], "healthy");
    let listed = lab.json(&["backend", "list", "web"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(3), "{listed}");
    let removed = lab.say(&["backend", "remove", "web", address]);
    assert_eq!(removed.out, "backend 10.0.0.13 of service web is removed\n");
    assert!(!lab.say(&["backend", "list", "web"]).out.contains(address));
}

#[test]
fn the_state_of_things_is_shown() {
    let lab = Lab::with_web();
    let status = lab.say(&["status"]).out;
    for fragment in
        ["xlb 1.2.3", "up 1 d 2 h", "/etc/xlb/xlb.toml", "eth0", "attached", "10.0.0.12"]
    {
        assert!(status.contains(fragment), "{fragment}: {status}");
    }
    assert_eq!(lab.json(&["status"])["services"][0]["backends"][0]["address"], "10.0.0.11");
    let stats = lab.say(&["stats"]).out;
    assert!(stats.contains("fragment        5"), "{stats}");
    assert!(!stats.contains("truncated"), "reasons without drops are noise: {stats}");
    assert_eq!(lab.json(&["stats"])["drops_total"]["truncated"], 0);
    let flows = lab.say(&["flows", "--service", "web", "--client", "192.0.2.1"]).out;
    assert!(
        flows.contains("10.0.0.2:1024") && flows.ends_with("1 min 1 s    1 s\n\n1 flow\n"),
        "{flows}"
    );
    let none = lab.say(&["flows", "--limit", "0"]).out;
    assert!(none.ends_with("0 of 1 flows: --limit shows more\n"), "{none}");
    assert_eq!(lab.json(&["flows", "kill", "--backend", "10.0.0.11"])["killed"], 1);
    assert_eq!(lab.say(&["flows", "kill", "--all"]).out, "1 flow killed\n");
    assert_eq!(lab.say(&["flows", "kill"]).status, WRONG_INPUT);
    assert_eq!(lab.say(&["flows", "kill", "--all", "--service", "web"]).status, WRONG_INPUT);
    let explain = ["explain", "--from", "192.0.2.1:4711", "--to", "203.0.113.10:80"];
    assert_eq!(lab.json(&explain)["verdict"], "tx");
    let explained = lab.say(&explain).out;
    assert!(explained.ends_with("verdict tx, service web, backend 10.0.0.11\n"), "{explained}");
}

#[test]
fn events_are_lines_and_are_followed_until_the_end() {
    let mut lab = Lab::with_web();
    let push = |lab: &Lab, message: &str| {
        let key: BackendKey = "10.0.0.11".parse().unwrap();
        let news = News::new(EventKind::BackendDown, Cause::Health, message);
        let news = news.about("web", key).became("healthy", "unhealthy");
        lab.agent.handle().events.push(SystemTime::now(), news);
    };
    push(&lab, "refused");
    let all = lab.say(&["events"]).out;
    assert_eq!(all.lines().count(), 2, "{all}");
    let down = "backend_down       web 10.0.0.11  healthy -> unhealthy  refused  (health)";
    assert!(all.contains(down), "{all}");
    let by = format!("(api by uid {}", nix::unistd::getuid());
    let pid = format!(", pid {})", std::process::id());
    let added = all.lines().next().unwrap();
    assert!(added.contains(&by) && added.ends_with(&pid), "{added}");
    let only = |words: &[&str]| lab.say(&[&["events"], words].concat()).out.lines().count();
    assert_eq!(only(&["--service", "web"]), 2);
    assert_eq!(only(&["--service", "dns"]), 0);
    let nobody = lab.say(&["events", "--service", "nope"]);
    assert_eq!((nobody.status, &*nobody.out), (WRONG_INPUT, ""), "{nobody:?}");
    assert!(nobody.err.contains("no service \"nope\""), "{nobody:?}");
    let all_again = lab.say(&["events", "--since", "9999"]).out;
    assert!(all_again.starts_with("(this agent's last event is 2"), "{all_again}");
    assert_eq!(only(&["--kind", "backend_down"]), 1);
    assert_eq!(only(&["--kind", "backend_down", "--kind", "service_added"]), 2);
    let wrong = lab.say(&["events", "--kind", "backend_dwon"]);
    assert_eq!(wrong.status, WRONG_INPUT, "{wrong:?}");
    assert!(wrong.err.contains("backend_down"), "{wrong:?}");
    let later = lab.json(&["events", "--since", "1"]);
    assert_eq!((&later["number"], &later["kind"]), (&2.into(), &"backend_down".into()));

    let (lines, said) = mpsc::channel();
    let socket = lab.agent.socket();
    let follower = std::thread::spawn(move || {
        let words = ["xlb", "events", "--follow", "--json", "--since", "2", "--socket"];
        let words = words.into_iter().chain(socket.to_str());
        respond(words, &mut Lines(lines), &mut Vec::new(), |_, _| anyhow::bail!("not local"))
    });
    for message in ["the first", "the second"] {
        push(&lab, message);
        let line = said.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(line.contains(message), "{line}");
    }
    lab.runtime.block_on(lab.agent.stop());
    assert_eq!(follower.join().unwrap(), FAILED, "the agent is gone, which a script must see");
}

/// Hands on what is written.
struct Lines(mpsc::Sender<String>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        // A lone newline is the end of what was said before.
        if !text.trim().is_empty() {
            self.0.send(text).map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn wrong_input_is_2_and_failure_1() {
    let lab = Lab::with_web();
    for (words, fragment) in [
        (&["backend", "set", "web", "10.0.0.11", "--weight", "65536"][..], "65535"),
        (&["backend", "set", "web", "10.0.0.99", "--weight", "1"], "10.0.0.99"),
        (&["backend", "set", "web", "ten", "--weight", "1"], "not an IP address"),
        (&["backend", "add", "web", "10.0.0.11"], "already there"),
        (&["backend", "add", "web", "10.0.0.13", "--next-hop", "ff:ff:ff:ff:ff:ff"], "multicast"),
        (&["backend", "list", "mail"], "no service \"mail\""),
        (&["service", "add", "x", "--vip", "nowhere", "--forward", "l2"], "nowhere"),
        (&["service", "add", "x", "--vip", "203.0.113.1:1", "--forward", "halfnat"], "ipip"),
        (
            &[
                "service",
                "add",
                "x",
                "--vip",
                "203.0.113.1:1",
                "--forward",
                "l2",
                "--health",
                "ftp",
            ],
            "http:/path",
        ),
        (
            &[
                "service",
                "add",
                "x",
                "--vip",
                "203.0.113.1:1",
                "--forward",
                "l2",
                "--backend",
                "10.0.0.1=x",
            ],
            "65535",
        ),
        (
            &["explain", "--from", "192.0.2.1", "--to", "203.0.113.10:80"],
            "192.0.2.1 has no port: such as 192.0.2.1:4711",
        ),
        (&["explain", "--from", "2001:db8::1", "--to", "[::1]:1"], "such as [2001:db8::1]:4711"),
        (&["explain", "--from", "192.0.2.1:1", "--to", "[2001:db8::1]:80"], "different families"),
        (&["decap", "--interface", "eth0", "--from", "10.0.0.1/8"], "bits behind"),
        (&["statsu"], "stats"),
        (&[], "Usage"),
    ] {
        let said = lab.say(words);
        assert_eq!((said.status, said.out.as_str()), (WRONG_INPUT, ""), "{words:?}: {said:?}");
        assert!(said.err.contains(fragment), "{words:?} should tell {fragment:?}: {}", said.err);
    }
    let refused = lab.say(&["service", "show", "mail", "--json"]);
    let refused: Value = serde_json::from_str(&refused.err).unwrap();
    assert_eq!(refused["error"]["kind"], "not_found");

    let absent = say(&["status", "--socket", "/nonexistent/xlb.sock"]);
    assert_eq!(absent.status, FAILED, "{absent:?}");
    assert!(absent.err.contains("/nonexistent/xlb.sock") && absent.err.contains("xlb run"));
}

#[test]
fn verbs_without_an_agent_are_handed_on() {
    let said = say(&["run", "--config", "xlb.toml", "--keep"]);
    assert_eq!(said.status, FAILED);
    assert!(said.err.contains("keep: true"), "{said:?}");
    let mut streams = (Vec::new(), Vec::new());
    let words = ["xlb", "check", "xlb.toml", "--json"];
    let status = respond(words, &mut streams.0, &mut streams.1, |verb, global| {
        assert!(
            matches!(verb, Local::Check(args::CheckArgs { file }) if file == Path::new("xlb.toml"))
        );
        assert!(global.json);
        Ok(WRONG_INPUT)
    });
    assert_eq!(status, WRONG_INPUT);
}

#[test]
fn no_cause_is_told_twice() {
    let cause = || io::Error::other("address in use");
    let own = anyhow::anyhow!(cause()).context("can't serve: address in use; set another");
    assert_eq!(told(&own), "can't serve: address in use; set another");
    let plain = anyhow::anyhow!(cause()).context("can't serve");
    assert_eq!(told(&plain), "can't serve: address in use");
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let lab = Lab::with_web();
    let socket = lab.agent.socket();
    let words = ["xlb", "status", "--socket", socket.to_str().unwrap()];
    let mut err = Vec::new();
    let status = respond(words, &mut Gone, &mut err, |_, _| anyhow::bail!("not local"));
    assert_eq!((status, err), (DONE, Vec::new()));
}

#[test]
fn networks_are_read_strictly() {
    for (text, prefix) in [("10.0.0.0/8", 8), ("10.0.0.1", 32), ("0.0.0.0/0", 0), ("::/0", 0)] {
        assert_eq!(text.parse::<Cidr>().unwrap().prefix, prefix, "{text}");
    }
    assert_eq!("2001:db8::/64".parse::<Cidr>().unwrap().prefix, 64);
    assert_eq!("2001:db8::1".parse::<Cidr>().unwrap().prefix, 128);
    for text in ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0.1/31", "::1/127", "::/129", "host/8"] {
        assert!(text.parse::<Cidr>().is_err(), "{text}");
    }
}

#[test]
fn the_help_has_every_verb_under_one_wish() {
    let tree = command::command();
    let shown: Vec<_> =
        tree.get_subcommands().filter(|v| !v.is_hide_set()).map(|v| v.get_name()).collect();
    let grouped: Vec<_> = GROUPS.iter().flat_map(|(_, verbs)| verbs.iter().copied()).collect();
    assert_eq!(grouped.len(), shown.len());
    assert_eq!(BTreeSet::from_iter(grouped), BTreeSet::from_iter(shown));

    let help = say(&["--help"]);
    assert_eq!(help.status, DONE);
    for fragment in ["Run:\n  run          Run the agent", "Look:", "--socket", "Usage: xlb"] {
        assert!(help.out.contains(fragment), "{fragment}: {}", help.out);
    }
    tree.debug_assert();
}

#[test]
fn options_are_shown_where_they_mean_something() {
    let usage = |words: &[&str]| say(words).err;
    let missing = usage(&["backend", "list"]);
    assert!(missing.contains("Usage: xlb backend list <SERVICE>\n"), "{missing}");
    let help = |verb| say(&[verb, "--help"]).out;
    assert!(help("status").contains("--socket") && help("status").contains("--json"));
    assert!(!help("replay").contains("--socket") && help("replay").contains("--json"));
    assert!(!help("man").contains("--socket") && !help("man").contains("--json"));
    // Where it means nothing it does no harm.
    assert_eq!(say(&["man", "--socket", "/x", "--json"]).status, DONE);
}

#[test]
fn completions_and_manual_pages_come_with_it() {
    for shell in ["bash", "zsh", "fish"] {
        let said = say(&["completions", shell]);
        assert!(said.status == DONE && said.out.contains("undrain"), "{said:?}");
    }
    assert!(say(&["man"]).out.contains(".TH xlb 1"));
    let directory = tempfile::tempdir().unwrap();
    let written = say(&["man", directory.path().to_str().unwrap()]);
    assert!(directory.path().join("xlb-backend-drain.1").exists());
    let count = fs::read_dir(directory.path()).unwrap().count();
    assert!(written.out.starts_with(&format!("wrote {count} pages into ")), "{written:?}");
    let nowhere = say(&["man", "/nonexistent"]);
    assert!(nowhere.status == FAILED && nowhere.err.contains("/nonexistent"), "{nowhere:?}");
}

#[test]
fn the_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/cli.md");
    let current = reference::reference();
    if std::env::var_os("XLB_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &current).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == current,
        "docs/reference/cli.md is not what the program says; \
         `XLB_BLESS=1 cargo test -p lb-userspace reference` rewrites it"
    );
}
