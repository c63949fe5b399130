//! What is asked in each mode, and what is the right answer.

use std::borrow::Cow;
use std::str::FromStr;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Short,
    Keepalive,
    Udp,
    Http,
    HttpShort,
    Up,
    Down,
}

const MIB: usize = 1 << 20;
static UPLOAD: [u8; MIB] = [b'u'; MIB];
static DOWNLOAD: [u8; MIB] = [b'd'; MIB];

const BODY: &[u8] = b"Hello, world!";

impl FromStr for Mode {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Ok(match word {
            "short" => Self::Short,
            "keepalive" => Self::Keepalive,
            "udp" => Self::Udp,
            "http" => Self::Http,
            "http-short" => Self::HttpShort,
            "up" => Self::Up,
            "down" => Self::Down,
            _ => return Err(()),
        })
    }
}

impl Mode {
    /// Whether each question takes a connection of its own, which the server ends.
    pub(crate) fn is_short(self) -> bool {
        matches!(self, Self::Short | Self::HttpShort)
    }

    /// The question that `client` asks after `count` others.
    pub(crate) fn question(self, client: usize, count: usize) -> Cow<'static, [u8]> {
        match self {
            Self::Short | Self::Keepalive | Self::Udp => {
                Cow::Owned(format!("{client:08x}{count:08x} are you well?\n").into_bytes())
            }
            Self::Http => Cow::Borrowed(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            Self::HttpShort => {
                Cow::Borrowed(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            }
            Self::Up => Cow::Borrowed(&UPLOAD),
            Self::Down => Cow::Borrowed(b"?"),
        }
    }

    /// Whether nothing is missing, on a connection that goes on after the answer.
    pub(crate) fn is_whole(self, answer: &[u8]) -> bool {
        match self {
            Self::Http | Self::HttpShort => split_head(answer).is_some_and(|(head, body)| {
                // Without a length it never is, and the client remains unanswered.
                content_length(head).is_some_and(|length| body.len() >= length)
            }),
            Self::Up => !answer.is_empty(),
            Self::Down => answer.len() >= MIB,
            Self::Short | Self::Keepalive | Self::Udp => answer.ends_with(b"\n"),
        }
    }

    pub(crate) fn is_right(self, question: &[u8], answer: &[u8]) -> bool {
        match self {
            Self::Http | Self::HttpShort => split_head(answer).is_some_and(|(head, body)| {
                head.starts_with(b"HTTP/1.1 200 ")
                    && content_length(head) == Some(BODY.len())
                    && body == BODY
            }),
            Self::Up => answer == b".",
            Self::Down => answer == DOWNLOAD,
            Self::Short | Self::Keepalive | Self::Udp => answer == question,
        }
    }
}

/// Divides an HTTP answer at the empty line, if that has come.
fn split_head(answer: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some((&answer[..end], &answer[end + 4..]))
}

fn content_length(head: &[u8]) -> Option<usize> {
    std::str::from_utf8(head).ok()?.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") { value.trim().parse().ok() } else { None }
    })
}
