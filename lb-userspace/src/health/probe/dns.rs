//! A DNS query that passes by its answer (RFC 1035), over UDP.
//!
//! An answer that is cut off (TC) shows that the server answers. Where a record is looked for that
//! the part doesn't show, the question is asked again over TCP.

use std::net::IpAddr;

use hickory_proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{DNSClass, Name, RData},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Clock, Failure, FirstWord, Reach, connect, excerpt::excerpt, udp};
use crate::config::DnsProbe;

/// Answers to other questions that are passed over: late ones, forged ones.
const STRAYS_MAX: u32 = 16;

impl DnsProbe {
    /// Passes when an answer to the question has the expected code, and the expected record.
    pub(super) async fn run(&self, reach: Reach<'_>, clock: &Clock) -> Result<String, Failure> {
        let unsayable = |error: String| Failure::Local(format!("query {:?}: {error}", self.query));
        let mut name =
            Name::from_ascii(&self.query).map_err(|error| unsayable(error.to_string()))?;
        name.set_fqdn(true);
        let mut question = Message::query();
        question.metadata.id = fastrand::u16(..);
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(name, self.query_type));
        let bytes = question.to_vec().map_err(|error| unsayable(error.to_string()))?;

        let answer = over_udp(&question, &bytes, reach, clock).await?;
        let seen = self.judge(&answer);
        if seen.is_err() && answer.metadata.truncation && self.expect_answer.is_some() {
            let answer = over_tcp(&question, &bytes, reach, clock).await?;
            return self.judge(&answer).map_err(Failure::Backend);
        }
        seen.map_err(Failure::Backend)
    }

    fn judge(&self, answer: &Message) -> Result<String, String> {
        let code = answer.metadata.response_code;
        let word = |code: ResponseCode| {
            let words = DnsProbe::CODES.iter().find(|(_, other)| *other == code);
            words
                .map_or_else(|| format!("code {}", u16::from(code)), |(word, _)| (*word).to_owned())
        };
        if code != self.expect_rcode {
            return Err(format!("{}, expected {}", word(code), word(self.expect_rcode)));
        }
        let answers = answer.answers.len();
        let seen =
            format!("{}, {answers} answer{}", word(code), if answers == 1 { "" } else { "s" });
        match &self.expect_answer {
            Some(expected) if !answer.answers.iter().any(|r| is(&r.data, expected)) => {
                let first = answer.answers.first().map_or_else(String::new, |record| {
                    format!("; the first is {}", excerpt(shown(&record.data).as_bytes()))
                });
                Err(format!("{seen}, none of them {}{first}", excerpt(expected.as_bytes())))
            }
            _ => Ok(seen),
        }
    }
}

async fn over_udp(
    question: &Message,
    bytes: &[u8],
    reach: Reach<'_>,
    clock: &Clock,
) -> Result<Message, Failure> {
    let socket = udp::open(reach).await?;
    udp::send_one(&socket, bytes, reach, clock).await?;
    for _ in 0..STRAYS_MAX {
        let answer = parse(&udp::receive(&socket, reach, clock).await?)?;
        if answers(question, &answer) {
            return Ok(answer);
        }
    }
    Err(Failure::Backend(format!("{STRAYS_MAX} answers to another question")))
}

async fn over_tcp(
    question: &Message,
    bytes: &[u8],
    reach: Reach<'_>,
    clock: &Clock,
) -> Result<Message, Failure> {
    let mut stream = connect(reach, FirstWord::Probe, clock).await?;
    let exchange = async {
        // One write: length and question in one segment.
        let length = (bytes.len() as u16).to_be_bytes();
        stream.write_all(&[&length, bytes].concat()).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    };
    let answer = clock.limit("waiting for the answer over TCP", exchange).await?;
    let answer = answer.map_err(|error: std::io::Error| {
        Failure::Backend(format!("no answer over TCP: {error}"))
    })?;
    let answer = parse(&answer)?;
    if !answers(question, &answer) {
        return Err(Failure::Backend("an answer to another question, over TCP".to_owned()));
    }
    Ok(answer)
}

fn parse(bytes: &[u8]) -> Result<Message, Failure> {
    Message::from_vec(bytes).map_err(|error| {
        Failure::Backend(format!("the answer is no DNS message: {error}: {}", excerpt(bytes)))
    })
}

/// Whether it has the question's number and repeats it. A server that can't read the question
/// may leave it out.
fn answers(question: &Message, answer: &Message) -> bool {
    let same = |asked: &Query, told: &Query| {
        asked.query_type() == told.query_type()
            && told.query_class() == DNSClass::IN
            && asked.name().eq_ignore_root(told.name())
    };
    answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == question.metadata.id
        && match (&question.queries[..], &answer.queries[..]) {
            ([asked], [told]) => same(asked, told),
            (_, []) => answer.metadata.response_code != ResponseCode::NoError,
            _ => false,
        }
}

/// Whether a record is the expected one: an address, or the text of its data, without regard to
/// case and the final dot.
fn is(data: &RData, expected: &str) -> bool {
    if let Ok(address) = expected.parse::<IpAddr>() {
        return data.ip_addr() == Some(address);
    }
    let plain = |text: &str| text.trim_end_matches('.').to_ascii_lowercase();
    plain(&shown(data)) == plain(expected)
}

/// A record's data, as zone files write it; text records without their quotes.
fn shown(data: &RData) -> String {
    match data {
        RData::TXT(text) => {
            text.txt_data.iter().map(|part| String::from_utf8_lossy(part)).collect()
        }
        other => other.to_string(),
    }
}
