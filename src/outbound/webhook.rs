//! Events as signed HTTP requests: CloudEvents 1.0 in structured JSON, with the headers of Standard
//! Webhooks (`webhook-id`, `webhook-timestamp`, `webhook-signature: v1,…`).

use crate::clock::Clock;
use crate::delivery::Notice;
use crate::error::{Error, Result, chain};
use crate::invalid::{Invalid, printable};
use crate::listener::Listener;
use crate::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use hmac::{Hmac, Mac};
use reqwest::{Client, header, redirect};
use serde_json::json;
use sha2::Sha256;
use std::sync::Arc;
use std::time::Duration;

/// Longest time that one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

pub struct Webhooks {
    client: Client,
    clock: Arc<dyn Clock>,
}

impl Webhooks {
    pub fn new(clock: Arc<dyn Clock>) -> Result<Self> {
        let client = Client::builder()
            .timeout(TIMEOUT)
            // A redirect could lead anywhere; the operator names the address.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("sandclock/", env!("CARGO_PKG_VERSION")))
            .build();
        let client = client.map_err(|e| Error::host("cannot set up webhooks", e))?;
        Ok(Webhooks { client, clock })
    }

    pub async fn post(
        &self,
        url: &str,
        secret: Option<&Secret>,
        node: &str,
        listener: &Listener,
        notice: Notice<'_>,
    ) -> std::result::Result<(), String> {
        let now = self.clock.now();
        let (id, body) = cloud_event(node, listener, notice, now);
        let mut request = self
            .client
            .post(url)
            .header(header::CONTENT_TYPE, "application/cloudevents+json; charset=utf-8")
            .header("webhook-id", &id)
            .header("webhook-timestamp", now.timestamp().to_string());
        if let Some(secret) = secret {
            request = request.header("webhook-signature", signature(secret.reveal(), &id, now, &body));
        }
        let answer = request.body(body).send().await.map_err(|error| printable(&chain(&error.without_url()), 400))?;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
    }
}

fn cloud_event(node: &str, listener: &Listener, notice: Notice<'_>, now: DateTime<Utc>) -> (String, String) {
    let (store, seq, kind, job, time) = match notice {
        Notice::Event(event) => {
            (event.jobstore.clone(), event.seq, event.kind.as_str(), event.job_id.as_ref(), event.time)
        }
        Notice::Missed { before, .. } => (Default::default(), before, "EVENTS_MISSED", None, now),
    };
    // The same at each try, so that a receiver can tell that it has it already.
    let id = format!("{}-{store}-{seq}-{}", listener.name, kind.to_ascii_lowercase());
    let mut event = json!({
        "specversion": "1.0",
        "id": id,
        "source": format!("/sandclock/{node}/{store}"),
        "type": format!("sandclock.{kind}"),
        "time": time.to_rfc3339(),
        "datacontenttype": "application/json",
        "data": notice.json(),
    });
    if let Some(job) = job {
        event["subject"] = json!(job);
    }
    (id, event.to_string())
}

/// What can be known of a webhook without asking it.
pub fn check(url: &str, secret: Option<&Secret>) -> Result<(), Invalid> {
    let bad = |reason: String| Invalid::new("url", url, reason).hint("such as `https://example.org/hook`");
    let parsed = reqwest::Url::parse(url).map_err(|e| bad(e.to_string()))?;
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(bad("it has a user or password in it; use a secret".into()));
    }
    let key = secret.and_then(|secret| secret.reveal().strip_prefix("whsec_"));
    if key.is_some_and(|key| STANDARD.decode(key).is_err()) {
        return Err(Invalid::new("secret", "", "what follows `whsec_` is not base64"));
    }
    Ok(())
}

/// A secret that begins with `whsec_` is base64, any other is taken as it is.
fn signature(secret: &str, id: &str, now: DateTime<Utc>, body: &str) -> String {
    let key = secret.strip_prefix("whsec_").and_then(|key| STANDARD.decode(key).ok());
    let key = key.unwrap_or_else(|| secret.as_bytes().to_vec());
    let mac = Hmac::<Sha256>::new_from_slice(&key).map(|mut mac| {
        mac.update(format!("{id}.{}.{body}", now.timestamp()).as_bytes());
        STANDARD.encode(mac.finalize().into_bytes())
    });
    format!("v1,{}", mac.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_of_the_standard() {
        // The example of the Standard Webhooks specification's reference libraries.
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let at = DateTime::from_timestamp(1_614_265_330, 0).unwrap();
        let signed = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", at, r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
