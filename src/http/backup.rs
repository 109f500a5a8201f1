//! Backups while the daemon works, as a tar archive: the store as it is at one moment, and beside it the
//! tokens (as hashes), the audit log and the configuration. It holds secrets.

use super::Api;
use super::operation::{Draft, Gives};
use super::problem::Problem;
use crate::error::Error;
use crate::invalid::Invalid;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;
use std::io::{self, Write};
use std::path::Path;
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Pieces of an archive that wait for a slow reader, and the bytes of one.
const PIECES_MAX: usize = 16;
const PIECE_BYTES: usize = 256 << 10;

/// An archive on its way.
pub struct Archive {
    body: Body,
    name: String,
}

impl IntoResponse for Archive {
    fn into_response(self) -> Response {
        let disposition = format!("attachment; filename=\"{}\"", self.name);
        (
            [(header::CONTENT_TYPE, "application/x-tar".to_owned()), (header::CONTENT_DISPOSITION, disposition)],
            self.body,
        )
            .into_response()
    }
}

impl Gives for Archive {
    fn describe(draft: &mut Draft<'_>) {
        let schema = json!({ "type": "string", "contentMediaType": "application/x-tar" });
        draft.answer(200, "an archive for `sandclock restore`", "application/x-tar", json!({ "schema": schema }));
    }
}

pub async fn backup(State(api): State<Api>) -> Result<Archive, Problem> {
    let place = api.backups.clone().try_acquire_owned();
    let place = place.map_err(|_| Problem::busy("another backup is being made (try again)"))?;
    let (home, now) = (api.app.home.clone(), api.app.scheduler.clock().now());
    let failed = |e: io::Error| Error::host("cannot make a backup", e);
    // In the home, whose file system has room for the store and is private.
    let copy = tempfile::Builder::new().prefix(crate::backup::COPY).tempdir_in(&home).map_err(failed)?;
    let backup = api.app.backup.as_ref().ok_or_else(|| {
        let reason = "the store is a database, which is not in the home";
        Invalid::new("backup", "the store", reason).hint("use what the database has for that, such as `pg_dump`")
    })?;
    backup.copy_to(copy.path()).await?;
    let about = crate::backup::About::new(now);
    let (tell, pieces) = mpsc::channel::<io::Result<Bytes>>(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        let _place = place;
        if let Err(error) = archive(&copy, &home, &about, Pieces { tell: tell.clone(), piece: Vec::new() }) {
            // The reader sees a stream that breaks off, not a short archive.
            let _ = tell.blocking_send(Err(error));
        }
    });
    let body = futures::stream::unfold(pieces, |mut pieces| async {
        let piece = pieces.recv().await?;
        Some((piece, pieces))
    });
    let name = format!("sandclock-{}.tar", now.format("%Y%m%dT%H%M%SZ"));
    Ok(Archive { body: Body::from_stream(body), name })
}

fn archive(copy: &TempDir, home: &Path, about: &crate::backup::About, pieces: Pieces) -> io::Result<()> {
    let pieces = crate::backup::write(copy.path(), home, about, pieces)?;
    pieces.finish()
}

/// A writer whose pieces go to the answer.
struct Pieces {
    tell: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        self.tell.blocking_send(Ok(piece)).map_err(|_| io::Error::other("nobody reads the backup any more"))
    }

    fn finish(mut self) -> io::Result<()> {
        self.send()
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
