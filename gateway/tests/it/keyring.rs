//! What knows API keys behind an edge under test: one key, how often it was asked about, and how it is revoked.
#![expect(clippy::unwrap_used, reason = "a broken house is a failed test")]

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost::Message;
use serde_json::json;
use tenon_chassis::{ApiKeyId, Clock, Fault, api_key::ApiKey};
use tenon_proto::auth::v1::{ExchangeApiKeyRequest, ExchangeApiKeyResponse, WatchApiKeysResponse};
use tokio::{sync::broadcast, time::sleep};
use tonic::{Code, Status, body::Body};

use crate::{
    house::{ACME, reply, sign},
    talker,
};

/// Signs of life: often, since the clock of a test runs ahead.
const SIGN: Duration = Duration::from_millis(10);

pub(crate) struct Keyring {
    clock: Clock,
    pub(crate) key: ApiKey,
    /// Exchanges that were asked for.
    pub(crate) asked: AtomicUsize,
    pub(crate) is_away: AtomicBool,
    pub(crate) expires_at: AtomicI64,
    revoked: broadcast::Sender<String>,
}

impl Keyring {
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        let key = ApiKey::generate(ACME.parse().unwrap(), ApiKeyId::new(&clock));
        let expires_at = AtomicI64::new(clock.unix() + 3_600);
        let (asked, is_away, revoked) = (AtomicUsize::new(0), AtomicBool::new(false), broadcast::channel(8).0);
        Arc::new(Self { clock, key, asked, is_away, expires_at, revoked })
    }

    /// How often an exchange was asked for.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Revokes the key, and says so to who watches.
    pub(crate) fn revoke(&self) {
        self.expires_at.store(0, Ordering::SeqCst);
        self.revoked.send(self.key.id.to_string()).unwrap();
    }

    /// Answers what is asked of it.
    pub(crate) async fn serve(&self, path: &str, message: Bytes) -> Option<Result<Response<Body>, Status>> {
        match path {
            "/tenon.auth.v1.ApiKeyService/ExchangeApiKey" => Some(self.exchange(message).await),
            "/tenon.auth.v1.ApiKeyService/WatchApiKeys" => Some(Ok(self.watch())),
            _ => None,
        }
    }

    async fn exchange(&self, message: Bytes) -> Result<Response<Body>, Status> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        // As long as several requests may come meanwhile.
        sleep(Duration::from_millis(30)).await;
        if self.is_away.load(Ordering::SeqCst) {
            return Err(Status::unavailable("away"));
        }
        let asked = ExchangeApiKeyRequest::decode(message).unwrap();
        let (now, expires_at) = (self.clock.unix(), self.expires_at.load(Ordering::SeqCst));
        let is_known = asked.api_key == self.key.id.to_string() && asked.secret_hash[..] == self.key.hash();
        if !is_known || asked.tenant != ACME || now >= expires_at {
            return Err(Fault::new(Code::Unauthenticated, "API_KEY_INVALID", "the API key is not valid").into());
        }
        let exp = (now + 120).min(expires_at);
        let access_token = sign(&json!({
            "iss": "tenon", "sub": format!("key:{}", self.key.id), "aud": "tenon", "tid": ACME, "sid": "",
            "roles": ["admin"], "amr": [], "auth_time": now, "iat": now, "exp": exp,
        }));
        let expire_time = Some(prost_types::Timestamp { seconds: exp, nanos: 0 });
        Ok(reply(&ExchangeApiKeyResponse { access_token, expire_time }.encode_to_vec()))
    }

    fn watch(&self) -> Response<Body> {
        let told = futures::stream::unfold(self.revoked.subscribe(), |mut revoked| async {
            let heard = tokio::time::timeout(SIGN, revoked.recv()).await;
            let message = WatchApiKeysResponse { api_key: heard.ok().and_then(Result::ok).unwrap_or_default() };
            let message = message.encode_to_vec();
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            let frame = [&[0][..], &length, &message].concat();
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(frame))), revoked))
        });
        let mut response = Response::new(Body::new(StreamBody::new(told)));
        talker::head(response.headers_mut());
        response
    }
}
