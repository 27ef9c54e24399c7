//! Against a server on the loopback that answers as each test wants, by UDP and by TCP.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, SRV},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    sync::mpsc,
    task::JoinHandle,
};

use super::*;
use crate::discovery::FOUND_MAX;

/// What is put into an answer to a question.
#[derive(Clone, Debug)]
enum Say {
    Records(Vec<Record>),
    Code(ResponseCode),
    /// These bytes behind the question's number.
    Bytes(Vec<u8>),
    Nothing,
}

/// A server; ends when it is dropped.
struct Server {
    address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Server {
    async fn start(say: impl Fn(&str, RecordType) -> Say + Send + Sync + 'static) -> Self {
        let say = Arc::new(say);
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            // Its number may be taken for TCP.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let by_udp = {
            let say = Arc::clone(&say);
            async move {
                let mut buffer = vec![0; 4096];
                while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                    let Some(mut answer) = answer(&buffer[..length], &*say) else { continue };
                    if answer.len() > 1232 {
                        // The header and the question, with the bit that says that it was cut.
                        let mut cut = Message::from_vec(&answer).unwrap().truncate();
                        cut.metadata.truncation = true;
                        answer = cut.to_vec().unwrap();
                    }
                    let _ = udp.send_to(&answer, from).await;
                }
            }
        };
        let by_tcp = async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let say = Arc::clone(&say);
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut question = vec![0; length.into()];
                        stream.read_exact(&mut question).await.unwrap();
                        let Some(answer) = answer(&question, &*say) else { return };
                        stream.write_u16(answer.len() as u16).await.unwrap();
                        stream.write_all(&answer).await.unwrap();
                    }
                });
            }
        };
        Self { address, tasks: vec![tokio::spawn(by_udp), tokio::spawn(by_tcp)] }
    }
}

fn answer(question: &[u8], say: &impl Fn(&str, RecordType) -> Say) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).ok()?;
    let asked = question.queries[0].clone();
    let said = say(&asked.name().to_string(), asked.query_type());
    let mut answer = question.into_response();
    match said {
        Say::Records(records) => {
            answer.add_answers(records);
        }
        Say::Code(code) => answer.metadata.response_code = code,
        Say::Bytes(bytes) => {
            return Some([&answer.metadata.id.to_be_bytes()[..], &bytes].concat());
        }
        Say::Nothing => return None,
    }
    Some(answer.to_vec().unwrap())
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn a(of: &str, ttl: u32, last: u8) -> Record {
    Record::from_rdata(name(of), ttl, RData::A(A::new(10, 0, 0, last)))
}

fn aaaa(of: &str, ttl: u32, last: u16) -> Record {
    Record::from_rdata(name(of), ttl, RData::AAAA(AAAA::new(0xfd00, 0, 0, 0, 0, 0, 0, last)))
}

fn srv(ttl: u32, priority: u16, weight: u16, target: &str) -> Record {
    let srv = SRV::new(priority, weight, 8080, name(target));
    Record::from_rdata(name("_web._tcp.test."), ttl, RData::SRV(srv))
}

const NAME: &str = "web.test.";

fn source(server: &Server, record: DnsRecord) -> DnsSource {
    DnsSource {
        name: if record == DnsRecord::Srv { "_web._tcp.test" } else { "web.test" }.to_owned(),
        record,
        server: Some(server.address),
        weight: 100,
        min_ttl: Duration::from_secs(1),
        max_ttl: Duration::from_secs(300),
    }
}

const BOTH: Families = Families { v4: true, v6: true };
const V4: Families = Families { v4: true, v6: false };

fn told(fresh: &Fresh) -> Vec<String> {
    let told =
        |found: &Found| format!("{}={}", found.backend.address, found.backend.weight.unwrap());
    fresh.answer.backends.iter().map(told).collect()
}

#[tokio::test]
async fn addresses_of_both_families_hold_for_their_least_ttl() {
    let server = Server::start(|_, kind| match kind {
        RecordType::A => Say::Records(vec![
            Record::from_rdata(name(NAME), 20, RData::CNAME(CNAME(name("alias.test.")))),
            a("alias.test.", 60, 2),
            a("alias.test.", 60, 1),
            a("alias.test.", 60, 1),
        ]),
        _ => Say::Records(vec![aaaa(NAME, 30, 1)]),
    })
    .await;
    let source = source(&server, DnsRecord::Address);
    let fresh = ask(&source, BOTH, &[]).await.unwrap();
    assert_eq!(told(&fresh), ["10.0.0.1=100", "10.0.0.2=100", "fd00::1=100"]);
    assert_eq!((fresh.ttl, fresh.answer.trouble), (Duration::from_secs(20), None));
    assert_eq!(told(&ask(&source, V4, &[]).await.unwrap()).len(), 2);
}

/// Nothing of a former answer is kept: who asks again hears what is so now.
#[tokio::test]
async fn every_question_is_asked() {
    let asked = std::sync::atomic::AtomicU8::new(0);
    let server = Server::start(move |_, _| {
        let asked = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Say::Records(vec![a(NAME, 3600, asked)])
    })
    .await;
    let source = source(&server, DnsRecord::A);
    let resolver = Resolver::new(source.server).unwrap();
    for expected in 0..3 {
        let fresh = answer::addresses(&resolver, &source, V4).await.unwrap();
        assert_eq!(told(&fresh), [format!("10.0.0.{expected}=100")]);
    }
}

#[tokio::test]
async fn what_isnt_there_is_empty_and_what_fails_is_a_failure() {
    for (says, empty) in [
        (Say::Code(ResponseCode::NXDomain), true),
        (Say::Records(Vec::new()), true),
        (Say::Code(ResponseCode::ServFail), false),
        (Say::Code(ResponseCode::Refused), false),
        (Say::Nothing, false),
        (Say::Bytes(vec![0xff; 3]), false),
        (Say::Bytes(b"garbage that is as long as a header".to_vec()), false),
    ] {
        let said = says.clone();
        let server = Server::start(move |_, _| said.clone()).await;
        let source = source(&server, DnsRecord::A);
        let began = Instant::now();
        match (ask(&source, V4, &[]).await, empty) {
            (Ok(fresh), true) => assert_eq!(told(&fresh), [""; 0], "{says:?}"),
            (Err(why), false) => assert!(why.contains("web.test"), "{says:?}: {why}"),
            (other, _) => panic!("{says:?}: {other:?}"),
        }
        assert!(began.elapsed() < PATIENCE, "{says:?} took {:?}", began.elapsed());
    }
    // One family that can't be asked for is no word about its addresses.
    let server = Server::start(|_, kind| match kind {
        RecordType::A => Say::Records(vec![a(NAME, 60, 1)]),
        _ => Say::Code(ResponseCode::ServFail),
    })
    .await;
    ask(&source(&server, DnsRecord::Address), BOTH, &[]).await.unwrap_err();
}

#[tokio::test]
async fn the_first_priority_serves_by_its_weights_and_others_are_backups() {
    let server = Server::start(|asked, kind| match (asked, kind) {
        (_, RecordType::SRV) => Say::Records(vec![
            srv(60, 20, 0, "backup.test."),
            srv(60, 20, 9, "a.test."),
            srv(60, 30, 5, "last.test."),
            srv(60, 10, 30, "a.test."),
            srv(60, 10, 0, "b.test."),
            srv(60, 10, 5, "c.test."),
            srv(60, 10, 7, "gone.test."),
        ]),
        ("a.test.", RecordType::A) => Say::Records(vec![a("a.test.", 9, 1)]),
        // The same host under another name.
        ("c.test.", RecordType::A) => Say::Records(vec![a("c.test.", 60, 1)]),
        ("b.test.", RecordType::A) => Say::Records(vec![a("b.test.", 60, 2), a("b.test.", 60, 3)]),
        ("gone.test.", _) => Say::Code(ResponseCode::NXDomain),
        ("backup.test.", _) => Say::Records(vec![a("backup.test.", 60, 4)]),
        ("last.test.", _) => Say::Records(vec![a("last.test.", 60, 5)]),
        other => panic!("nobody should ask for {other:?}"),
    })
    .await;
    let fresh = ask(&source(&server, DnsRecord::Srv), V4, &[]).await.unwrap();
    let backups = fresh.answer.backends.iter().filter(|found| found.backend.backup == Some(true));
    let backups: Vec<_> = backups.map(|found| found.backend.address.as_str()).collect();
    assert_eq!(backups, ["10.0.0.4", "10.0.0.5"]);
    let all = ["10.0.0.1=35", "10.0.0.2=1", "10.0.0.3=1", "10.0.0.4=1", "10.0.0.5=5"];
    assert_eq!(told(&fresh), all);
    assert_eq!(fresh.answer.trouble, None);
    assert!(fresh.ttl <= Duration::from_secs(9));
}

#[tokio::test]
async fn a_target_that_fails_keeps_its_addresses_and_nobody_else() {
    let server = Server::start(|asked, kind| match (asked, kind) {
        (_, RecordType::SRV) => {
            Say::Records(vec![srv(60, 1, 0, "a.test."), srv(60, 1, 0, "B.test.")])
        }
        ("a.test.", _) => Say::Records(vec![a("a.test.", 60, 9)]),
        _ => Say::Code(ResponseCode::ServFail),
    })
    .await;
    let last = [
        Found { part: Some("a.test".into()), ..Found::new("10.0.0.1", 100) },
        Found { part: Some("b.test".into()), ..Found::new("10.0.0.2", 100) },
    ];
    let fresh = ask(&source(&server, DnsRecord::Srv), V4, &last).await.unwrap();
    assert_eq!(told(&fresh), ["10.0.0.2=100", "10.0.0.9=100"]);
    let trouble = fresh.answer.trouble.unwrap();
    assert!(trouble.contains("B.test") && trouble.contains("stay"), "{trouble}");
    let nobody = Server::start(|_, _| Say::Records(vec![srv(60, 0, 0, ".")])).await;
    let fresh = ask(&source(&nobody, DnsRecord::Srv), V4, &last).await.unwrap();
    assert_eq!(told(&fresh), [""; 0], "a target of `.` says that there is no service");
}

/// As many as an answer can hold by TCP; one that claims more doesn't have them.
#[tokio::test]
async fn thousands_of_records_are_bounded() {
    const NUMBER: u16 = 4_080;
    let question = b"\x03web\x04test\0\0\x01\0\x01";
    // Each with a pointer to the question's name, the type and the class, a TTL of a minute.
    let record =
        |n: u16| [&b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0"[..], &n.to_be_bytes()].concat();
    let head = [&[0x81, 0x80, 0, 1][..], &NUMBER.to_be_bytes(), &[0; 4]].concat();
    let records: Vec<u8> = (0..NUMBER).flat_map(record).collect();
    let message = [&head[..], question, &records].concat();
    let server = Server::start(move |_, _| Say::Bytes(message.clone())).await;
    let fresh = ask(&source(&server, DnsRecord::A), V4, &[]).await.unwrap();
    assert_eq!(fresh.answer.backends.len(), usize::from(NUMBER));
    // Flags of an answer, one question and 10,000 answers, of which there is none.
    let claims = [&[0x81, 0x80, 0, 1, 0x27, 0x10, 0, 0, 0, 0][..], question].concat();
    let server = Server::start(move |_, _| Say::Bytes(claims.clone())).await;
    ask(&source(&server, DnsRecord::A), V4, &[]).await.unwrap_err();
    let targets: Vec<_> = (0..600).map(|n| srv(60, 0, 1, &format!("t{n}."))).collect();
    let server = Server::start(move |_, _| Say::Records(targets.clone())).await;
    let why = ask(&source(&server, DnsRecord::Srv), V4, &[]).await.unwrap_err();
    assert!(why.contains("600 targets; at most 512"), "{why}");
    let found = (0..2 * FOUND_MAX).map(|n| Found::new(n, 1)).collect();
    let (found, why) = answer::bounded(found, "web.test");
    assert_eq!(found.len(), FOUND_MAX);
    assert!(why.unwrap().contains("8192 addresses; only the first 4096"));
}

#[tokio::test]
async fn a_task_tells_what_it_hears_and_goes_on() {
    let up = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let server = {
        let up = Arc::clone(&up);
        Server::start(move |_, _| match up.load(std::sync::atomic::Ordering::Relaxed) {
            true => Say::Records(vec![a(NAME, 0, 1)]),
            false => Say::Code(ResponseCode::ServFail),
        })
        .await
    };
    let (findings, mut heard) = mpsc::channel(1);
    let teller = Teller { service: "web".into(), generation: 1, findings };
    let task = tokio::spawn(run(source(&server, DnsRecord::A), V4, Vec::new(), teller));
    let first = heard.recv().await.unwrap();
    assert_eq!(first.result.unwrap().backends, [Found::new("10.0.0.1", 100)]);
    assert!(first.next.is_some());
    up.store(false, std::sync::atomic::Ordering::Relaxed);
    while heard.recv().await.unwrap().result.is_ok() {}
    up.store(true, std::sync::atomic::Ordering::Relaxed);
    while heard.recv().await.unwrap().result.is_err() {}
    task.abort();
}

#[test]
fn waits_grow_and_are_bounded() {
    let source = DnsSource {
        name: "web.test".into(),
        record: DnsRecord::A,
        server: None,
        weight: 1,
        min_ttl: Duration::from_secs(1),
        max_ttl: Duration::from_secs(300),
    };
    let waits = [1, 2, 3, 5, 6, 1000].map(|failures| backoff(&source, failures).as_secs());
    assert_eq!(waits, [1, 2, 4, 16, 30, 30]);
    let slow = DnsSource { min_ttl: Duration::from_secs(60), ..source.clone() };
    assert_eq!(backoff(&slow, 3).as_secs(), 60);
    let quick = DnsSource { max_ttl: Duration::from_secs(2), ..source.clone() };
    assert_eq!(backoff(&quick, 9).as_secs(), 2);
    for _ in 0..100 {
        let wait = early(Duration::from_secs(10));
        assert!((Duration::from_secs(9)..=Duration::from_secs(10)).contains(&wait), "{wait:?}");
    }
    let vip = |text: &str| text.parse().unwrap();
    let of = |record, vip, forward| {
        let families = Families::of(&DnsSource { record, ..source.clone() }, vip, forward);
        (families.v4, families.v6)
    };
    let (v4, v6) = (vip("203.0.113.10"), vip("2001:db8::10"));
    assert_eq!(of(DnsRecord::Address, v4, Forward::L2), (true, false));
    assert_eq!(of(DnsRecord::Srv, v6, Forward::L2), (false, true));
    assert_eq!(of(DnsRecord::Address, v4, Forward::Gue), (true, true));
    assert_eq!(of(DnsRecord::Aaaa, v4, Forward::Ipip), (false, true));
    assert_eq!(of(DnsRecord::Address, v4, Forward::Nat), (true, false));
    assert_eq!(of(DnsRecord::Address, v6, Forward::Fullnat), (true, true));
}
