//! What lives in a partition, page by page: queues, and what is bound to what. A page costs what is on it, however much there is.

use std::collections::BTreeMap;

use bytes::Bytes;
use fluxmq_log::disk::Disk;

use super::Partition;
use super::request::{
    BoundSource, BoundSummary, ConnectionId, Event, List, ListOf, Listed, Outbox, QueueSummary,
};
use crate::model::record::queue_id;

impl<D: Disk> Partition<D> {
    /// Lists what lives here, by name.
    pub(super) fn list(&mut self, from: ConnectionId, list: List, out: &mut impl Outbox) {
        let List { token, what, count_max } = list;
        let found = match what {
            ListOf::Queues { after } => Listed::Queues(self.list_queues(&after, count_max)),
            ListOf::Bindings { from, skip } => {
                Listed::Bindings(self.list_bindings(&from, skip, count_max))
            }
        };
        out.send(from, Event::Listed { token, result: Ok(found) });
    }

    fn list_queues(&self, after: &Bytes, count_max: usize) -> Vec<QueueSummary> {
        let summary = |name: &Bytes| {
            let id = queue_id(name);
            let queue = self.views.queues.get(id)?;
            Some(QueueSummary {
                name: name.clone(),
                settings: queue.settings().clone(),
                owner: self.owners.of(id),
                messages: queue.len(),
                bytes: queue.bytes(),
                groups: self.views.groups.of(id).count(),
                members: self.groups.members_of(id),
                default_group: self.default_group(id),
            })
        };
        let names = self.views.queues.names(after).filter(|name| *name > after);
        names.take(count_max).filter_map(summary).collect()
    }

    fn list_bindings(&self, from: &Bytes, skip: usize, count_max: usize) -> Vec<BoundSummary> {
        let of_queues = self.views.queues.names(from).flat_map(|name| {
            let id = queue_id(name);
            let settings = self.views.queues.get(id).map(|queue| queue.settings());
            let filters = settings.into_iter().flat_map(|settings| &settings.bindings);
            let filters = filters.map(|filter| BoundSource::Filter(filter.clone()));
            let bound = self.views.bindings.of(id).map(|it| BoundSource::Queue(it.clone()));
            filters.chain(bound).map(|source| BoundSummary { to: name.clone(), source })
        });
        // Few, and in the meta partition only, where no queue lives.
        let mut to_exchanges: BTreeMap<&Bytes, Vec<BoundSource>> = BTreeMap::new();
        for (binding, to) in self.views.exchanges.bindings().filter(|(_, to)| to.name >= *from) {
            let source = BoundSource::Exchange(binding.clone());
            to_exchanges.entry(&to.name).or_default().push(source);
        }
        let to_exchanges = to_exchanges.into_iter().flat_map(|(name, sources)| {
            sources.into_iter().map(|source| BoundSummary { to: name.clone(), source })
        });
        let mut left = skip;
        let of_page = of_queues.chain(to_exchanges).skip_while(|found| {
            let is_skipped = left > 0 && found.to == *from;
            left = left.saturating_sub(1);
            is_skipped
        });
        of_page.take(count_max).collect()
    }
}
