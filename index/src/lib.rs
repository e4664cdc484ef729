//! Offsets and what is found by them: integers, byte strings and topic levels. No record, no file.
//!
//! Bottom layer of FluxMQ; depends on nothing of ours.

#[cfg(test)]
mod any_topic;
pub mod header_match;
mod level_tokens;
mod level_trie;
pub mod offset;
pub mod offset_set;
mod postings;
pub mod route_set;
pub mod routing_key;
pub mod sealed;
pub mod segment_index;
pub mod shared_filters;
pub mod slab;
pub mod topic_trie;
pub mod varint;
mod word_trie;

pub use header_match::{HeaderMatch, Headers, MatchMode};
pub use offset::{Offset, OffsetRange};
pub use offset_set::OffsetSet;
pub use route_set::{EMPTY_ROUTE_SET, RouteSets};
pub use sealed::{SealedIndex, SealedIndexBuilder};
pub use segment_index::{SegmentIndex, TopicSelection};
pub use shared_filters::{FilterMap, SharedFilters};
pub use slab::Slab;
pub use topic_trie::{TopicTrie, matches};
pub use word_trie::WordTrie;
