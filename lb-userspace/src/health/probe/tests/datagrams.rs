//! UDP and DNS, against servers that answer well, wrongly, in part, or with something else.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, TXT},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UdpSocket,
};

use super::*;
use crate::config::{DnsProbe, Payload};

async fn socket() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let target = socket.local_addr().expect("a bound socket");
    (socket, target)
}

/// Answers each datagram with those that `answers` makes of it.
fn answer(
    socket: UdpSocket,
    answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
            for answer in answers(&buffer[..length]) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    })
}

fn ping(expect: Option<&str>) -> ActiveCheck {
    check(Probe::Udp {
        send: Payload(b"PING\r\n".to_vec()),
        expect: expect.map(|text| text.parse().expect("a payload")),
    })
}

#[tokio::test]
async fn a_datagram_passes_by_its_answer() {
    let (socket, target) = socket().await;
    answer(socket, |datagram| match datagram {
        b"PING\r\n" => vec![b"+PONG\x00\r\n".to_vec()],
        _ => vec![b"what?".to_vec()],
    });
    for expect in [None, Some("PONG"), Some("hex:50004F"), Some("hex:4e4700")] {
        let outcome = probe(target, ping(expect)).await;
        match expect {
            Some("hex:50004F") => assert_failed(&outcome, r#"it begins with "+PONG\0\r\n""#),
            _ => assert_passed(&outcome),
        }
    }
}

#[tokio::test]
async fn an_empty_or_huge_answer_is_an_answer() {
    for size in [0, 60_000] {
        let (socket, target) = socket().await;
        answer(socket, move |_| vec![vec![b'x'; size]]);
        assert_passed(&probe(target, ping(None)).await);
        assert_failed(&probe(target, ping(Some("y"))).await, &format!("of {size} bytes"));
    }
}

#[tokio::test]
async fn a_closed_port_fails_at_once_and_silence_in_time() {
    let (socket, target) = socket().await;
    let silent = ActiveCheck { timeout: SHORT, ..ping(None) };
    assert_failed(
        &probe(target, silent).await,
        "timed out after 200ms while waiting for an answer",
    );
    drop(socket);
    assert_failed(&probe(target, ping(None)).await, "refused");
    assert_failed(&probe(target, dns(None)).await, "refused");
}

fn dns(expect_answer: Option<&str>) -> ActiveCheck {
    check(Probe::Dns(DnsProbe {
        query: "www.example.com".to_owned(),
        query_type: RecordType::A,
        expect_rcode: ResponseCode::NoError,
        expect_answer: expect_answer.map(str::to_owned),
    }))
}

/// The good answer to a question, with these records.
fn reply(question: &[u8], records: impl IntoIterator<Item = RData>) -> Message {
    let mut message = Message::from_vec(question).expect("a question");
    message.metadata.message_type = MessageType::Response;
    let name = message.queries[0].name().clone();
    for data in records {
        message.add_answer(Record::from_rdata(name.clone(), 60, data));
    }
    message
}

fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().expect("a message")
}

#[tokio::test]
async fn an_answer_with_the_code_passes() {
    let (socket, target) = socket().await;
    answer(socket, |question| vec![bytes(&reply(question, []))]);
    assert_eq!(probe(target, dns(None)).await, Outcome::Passed("NOERROR, 0 answers".to_owned()));
    assert_failed(&probe(target, dns(Some("192.0.2.1"))).await, "0 answers, none of them");
}

#[tokio::test]
async fn other_codes_are_told_by_name() {
    for (code, word) in [(ResponseCode::ServFail, "SERVFAIL"), (ResponseCode::YXDomain, "code 6")] {
        let (socket, target) = socket().await;
        answer(socket, move |question| {
            let mut message = reply(question, []);
            message.metadata.response_code = code;
            // Some servers leave the question out of an error.
            message.queries.clear();
            vec![bytes(&message)]
        });
        let seen = format!("{word}, expected NOERROR");
        assert_failed(&probe(target, dns(None)).await, &seen);
        let Probe::Dns(expecting) = dns(None).probe else { unreachable!("dns") };
        let expecting = DnsProbe { expect_rcode: code, ..expecting };
        assert_passed(&probe(target, check(Probe::Dns(expecting))).await);
    }
}

#[tokio::test]
async fn the_expected_record_is_among_the_answers() {
    let (socket, target) = socket().await;
    let name = Name::from_ascii("Mail.Example.com.").unwrap();
    answer(socket, move |question| {
        let records = [
            RData::CNAME(CNAME(name.clone())),
            RData::A(A(Ipv4Addr::new(192, 0, 2, 1))),
            RData::AAAA(AAAA("2001:db8::1".parse::<Ipv6Addr>().unwrap())),
            RData::TXT(TXT::new(vec!["v=1 ".to_owned(), "a".to_owned()])),
        ];
        vec![bytes(&reply(question, records))]
    });
    for expected in ["192.0.2.1", "2001:db8:0::1", "mail.example.com", "mail.example.com.", "v=1 a"]
    {
        assert_passed(&probe(target, dns(Some(expected))).await);
    }
    let seen = r#"4 answers, none of them "192.0.2.2"; the first is "#;
    assert_failed(&probe(target, dns(Some("192.0.2.2"))).await, seen);
}

#[tokio::test]
async fn answers_to_other_questions_dont_count() {
    let strays = |question: &[u8]| {
        let mut other_id = reply(question, []);
        other_id.metadata.id = other_id.metadata.id.wrapping_add(1);
        let mut other_name = reply(question, []);
        other_name.queries[0].set_name(Name::from_ascii("www.example.org.").unwrap());
        let mut other_type = reply(question, []);
        other_type.queries[0].set_query_type(RecordType::TXT);
        vec![bytes(&other_id), bytes(&other_name), bytes(&other_type), question.to_vec()]
    };
    let (first, target) = socket().await;
    answer(first, move |question| {
        let good = vec![bytes(&reply(question, []))];
        [strays(question), good].concat()
    });
    assert_passed(&probe(target, dns(None)).await);
    let (flood, target) = socket().await;
    answer(flood, move |question| strays(question).into_iter().cycle().take(100).collect());
    assert_failed(&probe(target, dns(None)).await, "16 answers to another question");
}

#[tokio::test]
async fn garbage_is_told() {
    for garbage in [&b"HTTP/1.1 400 Bad Request"[..], b"", &[0xff; 512]] {
        let (socket, target) = socket().await;
        answer(socket, move |question| vec![[&question[..2], garbage].concat()]);
        assert_failed(&probe(target, dns(None)).await, "no DNS message");
    }
}

/// The UDP answer is cut off: it is enough, unless a record is looked for that isn't in it.
#[tokio::test]
async fn what_is_cut_off_is_asked_for_over_tcp() {
    let (listener, target) = listen(Ipv4Addr::LOCALHOST).await;
    let socket = UdpSocket::bind(target).await.expect("the port is free for UDP, too");
    answer(socket, |question| {
        let mut message = reply(question, []);
        message.metadata.truncation = true;
        vec![bytes(&message)]
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut question = vec![0; usize::from(stream.read_u16().await.expect("a length"))];
            stream.read_exact(&mut question).await.expect("a question");
            // Nearly as many records as a message can hold.
            let records = (0..2_000_u32).map(|number| RData::A(A(Ipv4Addr::from(number))));
            let answer = bytes(&reply(&question, records));
            stream.write_u16(answer.len() as u16).await.expect("a connection");
            let _ = stream.write_all(&answer).await;
        }
    });
    assert_passed(&probe(target, dns(None)).await);
    assert_passed(&probe(target, dns(Some("0.0.7.207"))).await);
    assert_failed(&probe(target, dns(Some("192.0.2.1"))).await, "2000 answers, none of them");
}
