//! Takes messages out of the log into files, byte for byte: payloads, JSON lines, or the frames they are in as they lie in the segment.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use bytes::Bytes;
use fluxmq_log::format::Frame;

use crate::arguments::{ExtractArguments, ExtractForm, Format, From, PayloadFormat};
use crate::record_line::{self, Style};
use crate::scan::{Opened, Segment};
use crate::search::{Hit, Search};
use crate::source::SourceFile;
use crate::walk::Walk;
use crate::{CommandError, EXIT_CORRUPTION, text, warn};

mod sink;

use sink::Sink;

/// Why nothing, or not all, is taken out.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// It would be overwritten.
    #[error("{} exists: choose another name, or overwrite it with --force", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Where one payload ends and the next begins could not be told any more.
    #[error(
        "more than one message matches, and one file holds one payload: name a directory, \
         '-o {}/', take --as json, or narrow it down with --offset",
        path.display()
    )]
    Several {
        /// The file.
        path: PathBuf,
    },
    /// The bytes changed since they were checked, or were never right.
    #[error("{}, byte {position}: the frame there is damaged", path.display())]
    Frame {
        /// The segment.
        path: PathBuf,
        /// Where the frame begins.
        position: u64,
    },
}

/// Writes what matches and returns the exit code: 1 when nothing does, 2 when damage was stepped over.
pub fn run(arguments: &ExtractArguments, out: &mut impl Write) -> Result<u8, CommandError> {
    let mut wanted = arguments.search.clone();
    if let Some(range) = &arguments.range {
        (wanted.from, wanted.to) = (From::Offset(range.start), Some(From::Offset(range.end)));
    }
    if let Some(offset) = arguments.offset {
        let end = From::Offset(fluxmq_index::Offset(offset.saturating_add(1)));
        (wanted.from, wanted.to) = (From::Offset(fluxmq_index::Offset(offset)), Some(end));
    }
    let mut walk = Walk::default();
    let mut sink = Sink::new(arguments, out)?;
    let mut last_frame: Option<(PathBuf, u64)> = None;
    let mut count = 0u64;
    Search::new(&wanted).run(&mut walk, &mut |hit: Hit<'_>| {
        count += 1;
        let place = hit.place;
        let name = format!("p{:04}-{:020}", place.partition, place.offset.0);
        match arguments.form {
            ExtractForm::Payload => sink.put_payload(&name, &hit.message.payload)?,
            ExtractForm::Json => {
                let payload = Some(PayloadFormat::Base64);
                let style = Style { format: Format::Json, payload };
                let line = record_line::message(place, &hit.message, &[], style);
                sink.put(&format!("{name}.json"), format!("{line}\n").as_bytes())?;
            }
            ExtractForm::Frames => {
                let at = (hit.segment.to_owned(), hit.frame.start);
                if last_frame.as_ref() != Some(&at) {
                    let name = format!("p{:04}-{:020}.frame", place.partition, place.index);
                    sink.put(&name, &frame(&hit)?)?;
                    last_frame = Some(at);
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let said = sink.finish(count)?;
    if count == 0 {
        warn(&"nothing matches; no file was written");
    } else if let Some((where_to, bytes)) = said {
        warn(&format_args!("{count} messages, {} in {where_to}", text::size(bytes)));
    }
    Ok(match (walk.damage_count, count) {
        (0, 0) => 1,
        (0, _) => 0,
        (_, _) => EXIT_CORRUPTION,
    })
}

/// Reads the frame that a message is in, as it lies in the segment, and checks it.
fn frame(hit: &Hit<'_>) -> Result<Bytes, CommandError> {
    let damaged =
        || ExtractError::Frame { path: hit.segment.to_owned(), position: hit.frame.start };
    let Opened::Segment(Segment { header, .. }) = Segment::open(hit.segment)? else {
        return Err(damaged().into());
    };
    let Some(file) = SourceFile::open(hit.segment)? else { return Err(damaged().into()) };
    let len = (hit.frame.end - hit.frame.start) as usize;
    let bytes = Bytes::from(file.read_at(hit.frame.start, len)?);
    match Frame::decode(&bytes, header.salt()) {
        Ok(frame) if frame.header.frame_bytes() == len as u64 => Ok(bytes),
        _ => Err(damaged().into()),
    }
}
