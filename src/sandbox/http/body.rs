//! The body of an answer as a guest sees it: bounded in size and time, and without the secrets that
//! the request carried, should the server send them back.

use crate::secret::Secret;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};
use wasmtime_wasi_http::{Error, Result};

/// A body that ends with an error when it is too large or too slow.
pub struct Bounded {
    inner: hyper::body::Incoming,
    left: u64,
    max: u64,
    between_bytes: Duration,
    until: Instant,
    /// The nearer of the next part's time and the end of all.
    sleep: Pin<Box<Sleep>>,
    _slots: [OwnedSemaphorePermit; 2],
}

impl Bounded {
    pub fn new(
        inner: hyper::body::Incoming,
        max: u64,
        between_bytes: Duration,
        until: Instant,
        slots: [OwnedSemaphorePermit; 2],
    ) -> Self {
        let sleep = Box::pin(sleep_until(until.min(Instant::now() + between_bytes)));
        Bounded { inner, left: max, max, between_bytes, until, sleep, _slots: slots }
    }
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        let this = &mut *self;
        // The end of all holds for a body that always has more, too.
        if Instant::now() >= this.until {
            return Poll::Ready(Some(Err(Error::HttpResponseTimeout)));
        }
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
            ready!(this.sleep.as_mut().poll(cx));
            return Poll::Ready(Some(Err(Error::ConnectionReadTimeout)));
        };
        let Some(frame) = frame else { return Poll::Ready(None) };
        let frame = frame.map_err(Error::from)?;
        this.sleep.as_mut().reset(this.until.min(Instant::now() + this.between_bytes));
        if let Some(data) = frame.data_ref() {
            match this.left.checked_sub(data.len() as u64) {
                Some(left) => this.left = left,
                None => return Poll::Ready(Some(Err(Error::HttpResponseBodySize(Some(this.max))))),
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

/// The beginning of a secret at the end of a body that is overwritten, in bytes at least.
const BEGUN_MIN: usize = 4;

/// A body in which secrets are overwritten with `*`, wherever its parts are divided.
pub struct Masked {
    inner: Bounded,
    secrets: Vec<Secret>,
    /// The end of what came, in which a secret may have begun.
    held: BytesMut,
    trailers: Option<Frame<Bytes>>,
}

impl Masked {
    pub fn new(inner: Bounded, secrets: Vec<Secret>) -> Self {
        Masked { inner, secrets, held: BytesMut::new(), trailers: None }
    }

    /// What of the held bytes can go on: all of it at the end.
    fn release(&mut self, end: bool) -> Bytes {
        mask(&mut self.held, &self.secrets);
        let begun = begun(&self.held, &self.secrets);
        if end && begun >= BEGUN_MIN {
            let from = self.held.len() - begun;
            self.held[from..].fill(b'*');
        }
        let kept = if end { 0 } else { begun };
        let ready = self.held.len() - kept;
        self.held.split_to(ready).freeze()
    }
}

fn mask(bytes: &mut [u8], secrets: &[Secret]) {
    for secret in secrets.iter().map(|secret| secret.reveal().as_bytes()).filter(|secret| !secret.is_empty()) {
        let mut at = 0;
        while let Some(found) = bytes[at..].windows(secret.len()).position(|window| window == secret) {
            bytes[at + found..at + found + secret.len()].fill(b'*');
            at += found + secret.len();
        }
    }
}

/// Overwrites secrets in headers, or in trailers.
pub fn mask_headers(headers: &mut HeaderMap, secrets: &[Secret]) {
    for value in headers.values_mut() {
        let mut bytes = value.as_bytes().to_vec();
        mask(&mut bytes, secrets);
        if bytes != value.as_bytes() {
            // Asterisks are fit for a header.
            *value = HeaderValue::from_bytes(&bytes).unwrap_or(HeaderValue::from_static("*"));
        }
    }
}

/// How many bytes at the end are the beginning of a secret.
fn begun(bytes: &[u8], secrets: &[Secret]) -> usize {
    let of = |secret: &Secret| {
        let secret = secret.reveal().as_bytes();
        (1..secret.len().min(bytes.len() + 1)).rev().find(|length| bytes.ends_with(&secret[..*length]))
    };
    secrets.iter().filter_map(of).max().unwrap_or(0)
}

impl Body for Masked {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        let this = &mut *self;
        if let Some(trailers) = this.trailers.take() {
            return Poll::Ready(Some(Ok(trailers)));
        }
        loop {
            let frame = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None if this.held.is_empty() => return Poll::Ready(None),
                None => return Poll::Ready(Some(Ok(Frame::data(this.release(true))))),
            };
            let mut frame = frame;
            if let Some(trailers) = frame.trailers_mut() {
                mask_headers(trailers, &this.secrets);
            }
            match frame.into_data() {
                Ok(data) if this.secrets.is_empty() => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(data) => {
                    this.held.extend_from_slice(&data);
                    let ready = this.release(false);
                    if !ready.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(ready))));
                    }
                }
                Err(trailers) if this.held.is_empty() => return Poll::Ready(Some(Ok(trailers))),
                Err(trailers) => {
                    this.trailers = Some(trailers);
                    return Poll::Ready(Some(Ok(Frame::data(this.release(true)))));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_secret_is_masked_however_it_is_divided(before in "[a-c]{0,8}", after in "[a-c]{0,8}", cuts in proptest::collection::vec(0usize..30, 0..4)) {
            let secrets = [Secret::from("abcabcabd")];
            let whole = format!("{before}abcabcabd{after}");
            let mut held = BytesMut::new();
            let mut out = Vec::new();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(whole.len())).collect();
            cuts.sort_unstable();
            let mut from = 0;
            for to in cuts.into_iter().chain([whole.len()]) {
                held.extend_from_slice(&whole.as_bytes()[from..to]);
                from = to;
                mask(&mut held, &secrets);
                let ready = held.len() - begun(&held, &secrets);
                out.extend_from_slice(&held.split_to(ready));
            }
            mask(&mut held, &secrets);
            out.extend_from_slice(&held);
            let out = String::from_utf8(out).unwrap();
            prop_assert!(!out.contains("abcabcabd"), "{}", out);
            prop_assert_eq!(out.len(), whole.len());
        }
    }
}
