//! Who tasks talk to outside of the mesh: a web server that answers by path and a mail server, both of which remember.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// What a server was sent, oldest first.
type Seen = Arc<Mutex<Vec<String>>>;

/// One connection, until it ends.
type Talk = Pin<Box<dyn Future<Output = std::io::Result<()>> + Send>>;

/// A server on a port of 127.0.0.1, until the test ends.
#[derive(Debug)]
pub struct Outside {
    pub port: u16,
    seen: Seen,
}

impl Outside {
    /// A web server. `/echo` answers with what it was sent, `/status/N` with N, `/redirect` with a way to 127.0.0.2, `/big`
    /// with 2 MiB, `/slow` never, `/limited/S` with 429 and S seconds of Retry-After but the second time, and `/v1/chat/completions` as a language model that says `{"n": 1}`.
    pub async fn web() -> Self {
        Self::listen(|stream, seen| Box::pin(web(stream, seen))).await
    }

    /// A web server, as `web`, behind TLS with a certificate of tests/certs: `outside` is for 127.0.0.1, `stranger` is not.
    pub async fn tls(name: &str) -> Self {
        let file = |ending: &str| format!("{}/certs/{name}.{ending}", env!("CARGO_MANIFEST_DIR"));
        let chain: Result<_, _> = CertificateDer::pem_file_iter(file("pem")).expect("it is there").collect();
        let key = PrivateKeyDer::from_pem_file(file("key")).expect("a key in PEM");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("TLS 1.2 and 1.3").with_no_client_auth();
        let config = config.with_single_cert(chain.expect("certificates in PEM"), key).expect("they belong together");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self::listen(move |stream, seen| {
            let acceptor = acceptor.clone();
            Box::pin(async move { web(acceptor.accept(stream).await?, seen).await })
        })
        .await
    }

    /// A mail server, which refuses receivers at `refused.test`, and tells those at `busy.test` to come again once.
    pub async fn mail() -> Self {
        Self::listen(|stream, seen| Box::pin(mail(stream, seen))).await
    }

    /// What came in until now.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    async fn listen(talk: impl Fn(TcpStream, Seen) -> Talk + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let seen = Seen::default();
        let remembers = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(stream, remembers.clone()));
            }
        });
        Self { port, seen }
    }
}

async fn line(stream: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<String> {
    let mut line = String::new();
    match stream.read_line(&mut line).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

async fn request(stream: &mut BufReader<impl AsyncRead + Unpin>) -> std::io::Result<(String, String)> {
    let mut head = Vec::new();
    loop {
        match line(stream).await? {
            end if end.is_empty() => break,
            field => head.push(field),
        }
    }
    let head = head.join("\n");
    let length = head.lines().find_map(|field| field.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    Ok((head, String::from_utf8_lossy(&body).into_owned()))
}

async fn web(stream: impl AsyncRead + AsyncWrite + Unpin + Send, seen: Seen) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (head, body) = request(&mut stream).await?;
        seen.lock().unwrap().push(format!("{head}\n\n{body}"));
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let later;
        let (status, more, answer) = match path.split('?').next().unwrap_or_default() {
            "/echo" => (200, "content-type: application/json\r\nset-cookie: a=b\r\n", echo(&head, &body).to_string()),
            "/redirect" => (302, "location: http://127.0.0.2/\r\n", String::new()),
            "/big" => (200, "", "x".repeat(2 * 1024 * 1024)),
            "/slow" => std::future::pending().await,
            "/v1/chat/completions" => (200, "", completion().to_string()),
            path if path.starts_with("/limited/") && !is_known(&seen, path) => {
                later = format!("retry-after: {}\r\n", path.trim_start_matches("/limited/"));
                (429, later.as_str(), "too many".to_owned())
            }
            path if path.starts_with("/limited/") => (200, "", String::new()),
            path => {
                let status = path.strip_prefix("/status/").and_then(|status| status.parse().ok());
                (status.unwrap_or(404), "", "no such thing".to_owned())
            }
        };
        let head = format!("HTTP/1.1 {status} Said\r\n{more}content-length: {}\r\n\r\n", answer.len());
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// Whether it was said before.
fn is_known(seen: &Seen, said: &str) -> bool {
    let mut seen = seen.lock().unwrap();
    let known = seen.iter().any(|before| before == said);
    if !known {
        seen.push(said.to_owned());
    }
    known
}

fn echo(head: &str, body: &str) -> Value {
    json!({ "head": head, "body": body })
}

fn completion() -> Value {
    json!({
        "model": "test-1",
        "choices": [{ "message": { "role": "assistant", "content": "{\"n\": 1}" }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42 },
    })
}

/// As much of RFC 5321 as a client needs.
async fn mail(stream: TcpStream, seen: Seen) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 mail.test ESMTP\r\n").await?;
    loop {
        let said = line(&mut stream).await?;
        let verb = said.split([' ', ':']).next().unwrap_or_default().to_uppercase();
        let answer = match verb.as_str() {
            "RCPT" if said.contains("refused.test") => "550 no such user",
            "RCPT" if said.contains("busy.test") && !is_known(&seen, &said) => "451 come again",
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                let mut text = Vec::new();
                loop {
                    match line(&mut stream).await? {
                        end if end == "." => break,
                        part => text.push(part),
                    }
                }
                seen.lock().unwrap().push(text.join("\n"));
                "250 kept"
            }
            "QUIT" => "221 bye",
            _ => "250 fine",
        };
        stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
}
