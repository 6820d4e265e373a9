//! A DNS server that knows what a test tells it, over UDP as RFC 1035 has it: TXT records and nothing else.

use std::{
    collections::BTreeMap,
    net::UdpSocket,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const TXT: [u8; 2] = [0, 16];
/// Codes of an answer.
const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;

/// The records of each name.
type Zone = BTreeMap<String, Vec<String>>;

#[derive(Debug)]
pub struct Dns {
    /// `127.0.0.1:PORT`
    pub address: String,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    zone: Mutex<Zone>,
    is_failing: AtomicBool,
    is_over: AtomicBool,
}

impl Dns {
    pub fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time");
        let address = socket.local_addr().expect("it is bound").to_string();
        let shared = Arc::<Shared>::default();
        let zone = shared.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !zone.is_over.load(Ordering::SeqCst) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                if let Some(answer) = zone.answer(&buffer[..length]) {
                    let _gone = socket.send_to(&answer, from);
                }
            }
        });
        Self { address, shared }
    }

    /// Says that a name has these TXT records; none takes them away.
    pub fn set(&self, name: &str, texts: &[&str]) {
        let texts = texts.iter().map(|&text| text.to_owned()).collect();
        self.shared.zone.lock().expect("no holder panics").insert(name.to_owned(), texts);
    }

    /// Answers SERVFAIL from now on, or no longer.
    pub fn fail(&self, is_failing: bool) {
        self.shared.is_failing.store(is_failing, Ordering::SeqCst);
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn answer(&self, asked: &[u8]) -> Option<Vec<u8>> {
        let (name, end) = name(asked)?;
        let question = asked.get(12..end + 4)?;
        let zone = self.zone.lock().expect("no holder panics");
        let texts = zone.get(&name).filter(|texts| !texts.is_empty() && question.ends_with(&[TXT[0], TXT[1], 0, 1]));
        let code = match texts {
            _ if self.is_failing.load(Ordering::SeqCst) => SERVER_FAILURE,
            Some(_) => NO_ERROR,
            None => NO_SUCH_NAME,
        };
        let texts = texts.filter(|_| code == NO_ERROR).cloned().unwrap_or_default();
        let count = u16::try_from(texts.len()).ok()?.to_be_bytes();
        // The id, an authoritative answer to a recursive question, one question, the answers, nothing more.
        let mut out = [&asked[..2], &[0x85, 0x80 | code], &[0, 1], &count, &[0; 4], question].concat();
        for text in texts {
            let length = u8::try_from(text.len()).ok()?;
            let data = u16::from(length) + 1;
            // The name is that of the question, at byte 12; class IN; not to be kept.
            out.extend(
                [&[0xc0, 12][..], &TXT, &[0, 1], &[0; 4], &data.to_be_bytes(), &[length], text.as_bytes()].concat(),
            );
        }
        Some(out)
    }
}

/// The name of the first question, in lower case, and where it ends.
fn name(asked: &[u8]) -> Option<(String, usize)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*asked.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(asked.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
}
