//! Groups that one consumer has to itself: it says where it begins, and what it has read nobody else has.
//!
//! They are in no log and in no view: they begin with their consumer and end with it, or with the term, and nothing is left of them (ADR 0058).

use std::sync::Arc;

use fluxmq_log::disk::Disk;

use super::Partition;
use super::request::{Join, Position};
use crate::model::QueueSettings;
use crate::model::queue::{DeadLetterTarget, DeadLetters, QueueKind};
use crate::view::{Group, GroupKey};

impl<D: Disk> Partition<D> {
    /// A group of a queue: one that is stored, or one consumer's own.
    pub(super) fn group(&self, key: &GroupKey) -> Option<&Group> {
        self.views.groups.by_key(key).or_else(|| self.groups.own(key))
    }
}

/// The rules of a queue for whoever reads it for itself: what that refuses, or gives back, is no letter for the others.
pub(super) fn without_deaths(settings: &QueueSettings) -> Arc<QueueSettings> {
    let dead_letters = DeadLetters { target: DeadLetterTarget::Nowhere, ..Default::default() };
    Arc::new(QueueSettings { deliveries_max: 0, dead_letters, ..settings.clone() })
}

/// Decides whether a consumer reads for itself: where it says where to begin, and of a stream in any case, there from its end.
pub(super) fn read_for_itself(join: &mut Join, kind: QueueKind) {
    let is_stream = kind == QueueKind::Stream;
    match join.own.take() {
        Some(own) if is_stream || join.position != Position::Resume => {
            if join.position == Position::Resume {
                join.position = Position::Latest;
            }
            join.group = own.clone();
            join.own = Some(own);
        }
        _ => {}
    }
}
