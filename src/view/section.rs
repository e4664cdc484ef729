//! The frame of a view's section in a snapshot: `name length u8 · name · version u16 · body`.
//!
//! Bodies are bincode of plain rows; the version names their schema. Checksums are the snapshot store's.

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use thiserror::Error;

/// The schema that this release writes and reads.
const VERSION: u16 = 9;

/// Why a section cannot be restored.
#[derive(Debug, Error)]
pub enum SectionError {
    /// Shorter than its own header.
    #[error("a snapshot section is cut short")]
    Short,
    /// Written by a newer release.
    #[error("snapshot section '{name}' has schema {version}; this release reads {VERSION}")]
    Version {
        /// Which section.
        name: String,
        /// Its schema.
        version: u16,
    },
    /// Of a view that this release does not have.
    #[error("snapshot section '{name}' is unknown to this release")]
    Unknown {
        /// Which section.
        name: String,
    },
    /// Settings of a queue or an exchange, or a binding, were written by a newer release.
    #[error("a snapshot section has settings that this release does not know")]
    Settings,
    /// The checksum was right and the rows are not.
    #[error("snapshot section does not decode: {0}")]
    Rows(#[from] bincode::error::DecodeError),
}

/// Wraps a view's body.
pub(super) fn encode(name: &str, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(name.len() + body.len() + 3);
    out.put_u8(u8::try_from(name.len()).expect("view names are short"));
    out.put_slice(name.as_bytes());
    out.put_u16_le(VERSION);
    out.put_slice(body);
    out.freeze()
}

/// Unwraps a view's name and body.
pub(super) fn decode(bytes: &[u8]) -> Result<(&str, &[u8]), SectionError> {
    let (length, rest) = bytes.split_first().ok_or(SectionError::Short)?;
    let (name, rest) = rest.split_at_checked(usize::from(*length)).ok_or(SectionError::Short)?;
    let (version, body) = rest.split_at_checked(2).ok_or(SectionError::Short)?;
    let name = std::str::from_utf8(name).map_err(|_| SectionError::Short)?;
    let version = u16::from_le_bytes([version[0], version[1]]);
    if version != VERSION {
        return Err(SectionError::Version { name: name.to_owned(), version });
    }
    Ok((name, body))
}

/// Returns whose section it is, whatever its schema; `None` for bytes that are no section.
pub fn section_name(bytes: &[u8]) -> Option<&str> {
    let (length, rest) = bytes.split_first()?;
    std::str::from_utf8(rest.get(..usize::from(*length))?).ok()
}

/// Encodes a view's rows.
pub(super) fn encode_rows<T: Serialize>(rows: &T) -> Vec<u8> {
    let encoded = bincode::serde::encode_to_vec(rows, bincode::config::standard());
    encoded.expect("rows of integers and bytes always encode")
}

/// Encodes rows one by one, each as long as it takes, to what [`encode_rows`] makes of all of them in a vector.
pub(super) fn encode_each<I>(rows: I) -> Vec<u8>
where
    I: ExactSizeIterator<Item: Serialize> + Clone,
{
    struct Each<I>(I);

    impl<I: ExactSizeIterator<Item: Serialize> + Clone> Serialize for Each<I> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(self.0.clone())
        }
    }

    encode_rows(&Each(rows))
}

/// Decodes a view's rows.
pub(super) fn decode_rows<T: DeserializeOwned>(body: &[u8]) -> Result<T, SectionError> {
    let (rows, _) = bincode::serde::decode_from_slice(body, bincode::config::standard())?;
    Ok(rows)
}

/// Decodes rows one by one: those of a vector that [`encode_rows`] took, or of [`encode_each`].
pub(super) fn decode_each<T: DeserializeOwned>(
    body: &[u8],
) -> Result<impl Iterator<Item = Result<T, SectionError>>, SectionError> {
    let config = bincode::config::standard();
    let (count, mut next): (u64, usize) = bincode::serde::decode_from_slice(body, config)?;
    Ok((0..count).map(move |_| {
        let (row, read) = bincode::serde::decode_from_slice(&body[next..], config)?;
        next += read;
        Ok(row)
    }))
}
