//! `email:send`: a message by SMTP. Its Message-ID follows from the attempt, so that a repetition can be recognised.

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, MultiPart, SinglePart, header},
    transport::smtp,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Call, Tasks,
    arguments::{Field, Kind, optional, required},
    meter, parsed,
};
use crate::{
    asl::{Failure, Pushback},
    config::Config,
};

pub(super) const FIELDS: &[Field] = &[
    required("to", Kind::Texts),
    required("subject", Kind::Text),
    optional("text", Kind::Text),
    optional("html", Kind::Text),
    optional("cc", Kind::Texts),
    optional("bcc", Kind::Texts),
    optional("replyTo", Kind::Text),
    optional("fromName", Kind::Text),
];

/// The resource, as definitions name it.
const SEND: &str = "email:send";
/// Receivers of one message at most.
const RECEIVERS_MAX: usize = 50;
/// Characters of a subject (RFC 5322 section 2.1.1 bounds a line at 998).
const SUBJECT_MAX: usize = 500;
/// Bytes of the texts together.
const TEXT_MAX: usize = 512 * 1024;

#[derive(Deserialize)]
#[serde(untagged)]
enum Many {
    One(String),
    List(Vec<String>),
}

impl Many {
    fn list(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::List(texts) => texts,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Arguments {
    to: Many,
    subject: String,
    text: Option<String>,
    html: Option<String>,
    cc: Option<Many>,
    bcc: Option<Many>,
    reply_to: Option<String>,
    from_name: Option<String>,
}

/// A message to be sent.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    pub(crate) to: Vec<String>,
    pub(crate) cc: Vec<String>,
    pub(crate) bcc: Vec<String>,
    pub(crate) subject: String,
    pub(crate) text: Option<String>,
    pub(crate) html: Option<String>,
    pub(crate) reply_to: Option<String>,
    /// The name beside the operator's address; the address itself nobody chooses.
    pub(crate) from_name: Option<String>,
    /// What is left of the @ in the Message-ID.
    pub(crate) id: String,
}

/// Sends mail by the server that the operator set.
pub(crate) struct Mailer(Result<(AsyncSmtpTransport<Tokio1Executor>, Mailbox), String>);

impl Mailer {
    pub(crate) fn new(config: &Config) -> Self {
        Self(Self::configured(config))
    }

    fn configured(config: &Config) -> Result<(AsyncSmtpTransport<Tokio1Executor>, Mailbox), String> {
        let url = config.smtp_url.as_ref().ok_or("this mesh sends no mail: its operator must set TENON_SMTP_URL")?;
        // The URL's own error may repeat it, with the password.
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose());
        let transport = transport.map_err(|_| "TENON_SMTP_URL is not like smtps://user:password@host:465")?.build();
        let from = config.smtp_from.as_deref().ok_or("its operator must set TENON_SMTP_FROM")?;
        let from = from.parse().map_err(|_| "TENON_SMTP_FROM is not like Acme <no-reply@acme.test>")?;
        Ok((transport, from))
    }

    /// Whether mail can be sent at all.
    pub(crate) fn is_configured(&self) -> bool {
        self.0.is_ok()
    }

    /// Answers with the Message-ID once the server has taken the message.
    ///
    /// # Errors
    /// Email.NotConfigured, INVALID_ARGUMENTS, Email.Refused when the server says no, Email.Unavailable otherwise.
    pub(crate) async fn send(&self, mail: Mail) -> Result<String, Failure> {
        let (transport, from) = self.0.as_ref().map_err(|why| Failure::new("Email.NotConfigured", why))?;
        let (id, message) = message(mail, from)?;
        transport.send(message).await.map(|_| id).map_err(|error| failure(&error))
    }
}

impl Tasks {
    pub(super) async fn email(&self, call: &Call) -> Result<Value, Failure> {
        let arguments: Arguments = parsed(&call.arguments)?;
        let list = |many: Option<Many>| many.map(Many::list).unwrap_or_default();
        let mail = Mail {
            to: arguments.to.list(),
            cc: list(arguments.cc),
            bcc: list(arguments.bcc),
            subject: arguments.subject,
            text: arguments.text,
            html: arguments.html,
            reply_to: arguments.reply_to,
            from_name: arguments.from_name,
            id: call.idempotency_key.replace('/', "."),
        };
        let id = self.mailer.send(mail).await?;
        self.meter(call, meter::CONNECTOR_CALLS, 1).await;
        Ok(json!({ "messageId": id }))
    }
}

fn invalid(why: impl Into<String>) -> Failure {
    Failure::new("INVALID_ARGUMENTS", why)
}

/// A mailbox; what would begin another header is none.
fn mailbox(field: &str, text: &str) -> Result<Mailbox, Failure> {
    let wrong = || invalid(format!("{field} is no address like Ada <ada@acme.test>"));
    if text.chars().any(char::is_control) {
        return Err(wrong());
    }
    text.parse().map_err(|_| wrong())
}

fn message(mail: Mail, from: &Mailbox) -> Result<(String, Message), Failure> {
    let count = mail.to.len() + mail.cc.len() + mail.bcc.len();
    if mail.to.is_empty() || count > RECEIVERS_MAX {
        return Err(invalid(format!("to, cc and bcc must be 1 to {RECEIVERS_MAX} addresses")));
    }
    if mail.subject.chars().count() > SUBJECT_MAX || mail.subject.chars().any(char::is_control) {
        return Err(invalid("subject must be one line of at most 500 characters"));
    }
    let size = mail.text.as_deref().map_or(0, str::len) + mail.html.as_deref().map_or(0, str::len);
    if size > TEXT_MAX {
        return Err(invalid("text and html have more than 512 KiB"));
    }
    let mut from = from.clone();
    if let Some(name) = mail.from_name {
        if name.chars().count() > 128 || name.chars().any(char::is_control) {
            return Err(invalid("fromName must be one line of at most 128 characters"));
        }
        from.name = Some(name);
    }
    let id = format!("<{}@{}>", mail.id, from.email.domain());
    let mut builder = Message::builder().message_id(Some(id.clone())).from(from).subject(mail.subject);
    for to in &mail.to {
        builder = builder.to(mailbox("to", to)?);
    }
    for cc in &mail.cc {
        builder = builder.cc(mailbox("cc", cc)?);
    }
    for bcc in &mail.bcc {
        builder = builder.bcc(mailbox("bcc", bcc)?);
    }
    if let Some(reply_to) = &mail.reply_to {
        builder = builder.reply_to(mailbox("replyTo", reply_to)?);
    }
    // What an answering machine looks at (RFC 3834), so that it does not answer.
    builder = builder.header(AutoSubmitted);
    let built = match (mail.text, mail.html) {
        (Some(text), Some(html)) => builder.multipart(MultiPart::alternative_plain_html(text, html)),
        (None, Some(html)) => builder.singlepart(SinglePart::html(html)),
        (text, None) => builder.singlepart(SinglePart::plain(text.unwrap_or_default())),
    };
    Ok((id, built.map_err(|why| invalid(why.to_string()))?))
}

#[derive(Clone)]
struct AutoSubmitted;

impl header::Header for AutoSubmitted {
    fn name() -> header::HeaderName {
        header::HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> header::HeaderValue {
        header::HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

fn failure(error: &smtp::Error) -> Failure {
    if error.is_permanent() {
        let code = error.status().map(|code| code.to_string()).unwrap_or_default();
        return Failure::new("Email.Refused", format!("the mail server refused the message: {code}"));
    }
    tracing::warn!(%error, "the mail server cannot be reached");
    let failure =
        Failure::new("Email.Unavailable", "the mail server cannot be reached just now, or asks to come again");
    failure.pushed_back(limits(&error.to_string()).then(|| Pushback { after_ms: 0, limited_by: Some(SEND.to_owned()) }))
}

/// Whether a server that refuses for now does so for being sent too much. No code of SMTP says that alone, the words do.
fn limits(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    ["too many", "rate limit", "too fast", "too much", "unusual rate", "throttl"].iter().any(|word| said.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(mail: Mail) -> Result<String, Failure> {
        let (id, message) = message(mail, &"Acme <no-reply@acme.test>".parse().unwrap())?;
        let text = String::from_utf8(message.formatted()).unwrap();
        assert!(text.contains(&id), "{text}");
        Ok(text)
    }

    fn mail() -> Mail {
        let (to, subject) = (vec!["Ada <ada@b.test>".to_owned()], "Hello".to_owned());
        Mail { to, subject, text: Some("Hi".to_owned()), id: "run_1.7".to_owned(), ..Mail::default() }
    }

    #[test]
    fn a_message_is_from_the_operator_and_names_its_attempt() {
        let text = built(Mail { from_name: Some("Bob".to_owned()), html: Some("<p>Hi".to_owned()), ..mail() }).unwrap();
        assert!(text.contains("Message-ID: <run_1.7@acme.test>"), "{text}");
        assert!(text.contains("From: Bob <no-reply@acme.test>") && text.contains("multipart/alternative"), "{text}");
        assert!(text.contains("Auto-Submitted: auto-generated"), "{text}");
    }

    #[test]
    fn a_server_that_is_sent_too_much_is_told_from_one_that_is_away() {
        assert!(limits("transient error (421): 4.7.0 Try again later, too many messages"));
        assert!(limits("transient error (450): 4.2.1 the user is receiving mail at a rate limit"));
        assert!(!limits("transient error (451): 4.7.1 Greylisted, come again"));
        assert!(!limits("Connection error: Connection refused"));
    }

    #[test]
    fn no_field_begins_another_header() {
        let evil = "x\r\nBcc: eve@evil.test".to_owned();
        for mail in [
            Mail { subject: evil.clone(), ..mail() },
            Mail { from_name: Some(evil.clone()), ..mail() },
            Mail { reply_to: Some(evil.clone()), ..mail() },
            Mail { to: vec![format!("ada@b.test{evil}")], ..mail() },
            Mail { to: Vec::new(), ..mail() },
            Mail { to: vec!["a@b.test".to_owned(); 51], ..mail() },
        ] {
            assert_eq!(built(mail).unwrap_err().error, "INVALID_ARGUMENTS");
        }
    }
}
