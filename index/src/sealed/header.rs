//! The first bytes of a sealed index: whose it is, and where its sections are.
//!
//! ```text
//!   0 magic "FluxSix" and version 1 u64 | 8 crc of 12 to 256 u32 | 12 partition u32
//!  16 segment_no u64 | 24 base_offset u64 | 32 end_offset u64 | 40 base_index u64 | 48 last_index u64
//!  56 end_bytes u64, where the segment's frames end | 64 salt u32 | 68 chain u32, crc of the last frame's header
//!  72 len of the file u64
//!  80 seven sections, each: u64 at | u64 len | u32 crc | u32 zeros     248 zeros
//! ```
//!
//! Sections follow one another without a gap, so that every byte of the file is covered by a checksum.

use std::fmt;
use std::ops::Range;

use crate::offset::Offset;

/// Length of the header in bytes.
pub const SEALED_HEADER_BYTES: usize = 256;

const MAGIC: [u8; 7] = *b"FluxSix";
const VERSION: u8 = 1;
const CRC_AT: usize = 8;
const SECTIONS_AT: usize = 80;
const SECTION_ENTRY_BYTES: usize = 24;

/// The segment that an index belongs to. Another segment differs in one of these, most of all in `chain`: the checksum of the last
/// frame's header covers the seal's digests, and the checksums of all headers before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Its partition.
    pub partition: u32,
    /// Its number.
    pub segment_no: u64,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset after its last record.
    pub end_offset: Offset,
    /// Index of its first entry.
    pub base_index: u64,
    /// Index of its last entry.
    pub last_index: u64,
    /// Where its frames end in the file.
    pub end_bytes: u64,
    /// What the checksums of its frame headers begin with.
    pub salt: u32,
    /// The checksum of its last frame's header.
    pub chain: u32,
}

/// A part of a sealed index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// Where frames begin, in bytes, offsets and time.
    Frames,
    /// Where records begin.
    Records,
    /// Topics, by shape.
    Topics,
    /// The topic of each record.
    Column,
    /// The records of each topic.
    Postings,
    /// The route sets of each queue, and the records of each route set.
    Queues,
    /// Checksums of the segment's bytes.
    Blocks,
}

/// Where a section is, and its checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SectionAt {
    /// Where it begins in the file.
    pub at: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Its checksum.
    pub crc: u32,
}

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose it is.
    pub binding: Binding,
    /// The sections, in order.
    pub sections: [SectionAt; Section::ALL.len()],
}

/// Why bytes are no sealed index, or not the one that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// They end too early, or go on behind the last section.
    #[error("file of {len} bytes, {expected} expected")]
    Length {
        /// The length in bytes.
        len: u64,
        /// What it should be.
        expected: u64,
    },
    /// They are something else.
    #[error("does not begin as a sealed index")]
    Magic,
    /// They are in another version of the format.
    #[error("format version {found}, not {VERSION}")]
    Version {
        /// The version.
        found: u8,
    },
    /// The header is damaged.
    #[error("header checksum {found:#010x} does not match {expected:#010x}")]
    HeaderCrc {
        /// Computed.
        found: u32,
        /// In the header.
        expected: u32,
    },
    /// It is the index of another segment.
    #[error("belongs to segment {segment_no} with chain {chain:#010x}, another one")]
    Foreign {
        /// Its segment's number.
        segment_no: u64,
        /// The checksum of that segment's last frame header.
        chain: u32,
    },
    /// A section is damaged.
    #[error("section {section} checksum {found:#010x} does not match {expected:#010x}")]
    SectionCrc {
        /// Which one.
        section: Section,
        /// Computed.
        found: u32,
        /// In the header.
        expected: u32,
    },
    /// A section with a right checksum does not read as one: its writer was wrong.
    #[error("section {section} does not read as one")]
    Malformed {
        /// Which one.
        section: Section,
    },
}

impl Section {
    /// All sections, in the order in which they are written.
    pub const ALL: [Section; 7] = [
        Section::Frames,
        Section::Records,
        Section::Topics,
        Section::Column,
        Section::Postings,
        Section::Queues,
        Section::Blocks,
    ];
}

impl fmt::Display for Section {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Section::Frames => "frames",
            Section::Records => "records",
            Section::Topics => "topics",
            Section::Column => "column",
            Section::Postings => "postings",
            Section::Queues => "queues",
            Section::Blocks => "blocks",
        })
    }
}

impl Header {
    /// Returns the header of these sections, laid out one behind the other.
    pub(crate) fn of(binding: Binding, contents: &[Vec<u8>; Section::ALL.len()]) -> Header {
        let mut sections = [SectionAt::default(); Section::ALL.len()];
        let mut at = SEALED_HEADER_BYTES as u64;
        for (section, content) in sections.iter_mut().zip(contents) {
            let len = content.len() as u64;
            *section = SectionAt { at, len, crc: crc32c::crc32c(content) };
            at += len;
        }
        Header { binding, sections }
    }

    /// Returns the length of the whole file.
    pub fn file_bytes(&self) -> u64 {
        let last = self.sections[Section::ALL.len() - 1];
        last.at + last.len
    }

    /// Returns where a section is.
    pub fn section(&self, section: Section) -> SectionAt {
        self.sections[section as usize]
    }

    pub(crate) fn encode(&self) -> [u8; SEALED_HEADER_BYTES] {
        let mut bytes = [0; SEALED_HEADER_BYTES];
        bytes[..7].copy_from_slice(&MAGIC);
        bytes[7] = VERSION;
        let Binding { partition, salt, chain, .. } = self.binding;
        for (at, value) in [(12, partition), (64, salt), (68, chain)] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let Binding { segment_no, base_offset, end_offset, .. } = self.binding;
        let Binding { base_index, last_index, end_bytes, .. } = self.binding;
        let positions =
            [segment_no, base_offset.0, end_offset.0, base_index, last_index, end_bytes];
        for (number, value) in positions.into_iter().enumerate() {
            bytes[16 + number * 8..24 + number * 8].copy_from_slice(&value.to_le_bytes());
        }
        bytes[72..80].copy_from_slice(&self.file_bytes().to_le_bytes());
        for (number, section) in self.sections.iter().enumerate() {
            let entry = &mut bytes[SECTIONS_AT + number * SECTION_ENTRY_BYTES..];
            entry[..8].copy_from_slice(&section.at.to_le_bytes());
            entry[8..16].copy_from_slice(&section.len.to_le_bytes());
            entry[16..20].copy_from_slice(&section.crc.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[CRC_AT + 4..]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header of a file of `file_bytes`, of which `bytes` are the first.
    pub fn decode(bytes: &[u8], file_bytes: u64) -> Result<Header, Fault> {
        let short = Fault::Length { len: file_bytes, expected: SEALED_HEADER_BYTES as u64 };
        let bytes: &[u8; SEALED_HEADER_BYTES] = bytes.first_chunk().ok_or(short)?;
        if bytes[..7] != MAGIC {
            return Err(Fault::Magic);
        }
        if bytes[7] != VERSION {
            return Err(Fault::Version { found: bytes[7] });
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"));
        let (found, expected) = (crc32c::crc32c(&bytes[CRC_AT + 4..]), u32_at(CRC_AT));
        if found != expected {
            return Err(Fault::HeaderCrc { found, expected });
        }
        let binding = Binding {
            partition: u32_at(12),
            segment_no: u64_at(16),
            base_offset: Offset(u64_at(24)),
            end_offset: Offset(u64_at(32)),
            base_index: u64_at(40),
            last_index: u64_at(48),
            end_bytes: u64_at(56),
            salt: u32_at(64),
            chain: u32_at(68),
        };
        let mut sections = [SectionAt::default(); Section::ALL.len()];
        let mut next = SEALED_HEADER_BYTES as u64;
        for (number, section) in sections.iter_mut().enumerate() {
            let entry = SECTIONS_AT + number * SECTION_ENTRY_BYTES;
            *section =
                SectionAt { at: u64_at(entry), len: u64_at(entry + 8), crc: u32_at(entry + 16) };
            let end = section.at.checked_add(section.len).filter(|end| *end <= file_bytes);
            match end.filter(|_| section.at == next) {
                Some(end) => next = end,
                None => return Err(Fault::Malformed { section: Section::ALL[number] }),
            }
        }
        if next != file_bytes || u64_at(72) != file_bytes {
            return Err(Fault::Length { len: file_bytes, expected: next });
        }
        Ok(Header { binding, sections })
    }

    /// Checks that the index is that of a segment.
    pub fn check(&self, wanted: &Binding) -> Result<(), Fault> {
        let Binding { segment_no, chain, .. } = self.binding;
        if self.binding == *wanted { Ok(()) } else { Err(Fault::Foreign { segment_no, chain }) }
    }

    /// Checks the bytes of a section.
    pub fn check_section(&self, section: Section, bytes: &[u8]) -> Result<(), Fault> {
        let SectionAt { len, crc: expected, .. } = self.section(section);
        let found = crc32c::crc32c(bytes);
        if bytes.len() as u64 != len || found != expected {
            return Err(Fault::SectionCrc { section, found, expected });
        }
        Ok(())
    }
}

/// The place of a frame, as the index has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    /// Its number in the segment: its index is the segment's first plus this.
    pub number: usize,
    /// The offset of its first record.
    pub base_offset: Offset,
    /// Its log time in milliseconds.
    pub base_ts: u64,
    /// Where it is in the segment's file.
    pub bytes: Range<u64>,
    /// Where its producers are listed, from its first byte on; 0 when it has none.
    pub producers_at: u32,
}
