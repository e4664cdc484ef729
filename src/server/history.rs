//! Which topics the configuration keeps for a shorter time than others, and which whatever is published to them.

use anyhow::Context;
use bytes::Bytes;

use crate::config::History;
use crate::model::Filter;
use crate::model::address::{SubscribeAddress, is_reserved};
use crate::partition::TopicAges;

/// Each publish of QoS 0 is compared with all of them.
const FILTERS_MAX: usize = 64;

/// Reads the ages of topics; an error names the place in the configuration.
pub(super) fn topic_ages(history: &History) -> anyhow::Result<TopicAges> {
    let mut ages = Vec::with_capacity(history.topics.len());
    for (index, topics) in history.topics.iter().enumerate() {
        let of = || format!("history.topics.{index}.filter '{}'", topics.filter);
        ages.push((filter(&topics.filter).with_context(of)?, u64::from(topics.age_max_s) * 1000));
    }
    Ok(TopicAges::new(ages))
}

/// Reads the filters; one that makes no sense stops the start.
pub(super) fn filters(history: &History) -> anyhow::Result<Vec<Filter>> {
    let parts = history.filters.split(',').map(str::trim).filter(|part| !part.is_empty());
    let filters: Vec<Filter> = parts
        .map(|part| filter(part).with_context(|| format!("history.filters: '{part}'")))
        .collect::<anyhow::Result<_>>()?;
    let count = filters.len();
    anyhow::ensure!(
        count <= FILTERS_MAX,
        "history.filters: {count} filters are more than {FILTERS_MAX}; write wider ones"
    );
    Ok(filters)
}

fn filter(text: &str) -> anyhow::Result<Filter> {
    let filter = Filter::new(Bytes::from(text.to_owned()))?;
    let is_plain = matches!(SubscribeAddress::of(&filter), Ok(SubscribeAddress::Filter(_)));
    anyhow::ensure!(
        is_plain && !is_reserved(text),
        "only ordinary topics have a history; queues have rules of their own"
    );
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HistoryTopics;

    #[test]
    fn what_names_no_topics_is_refused_with_its_place() {
        let read = |filter: &str| {
            let topics = HistoryTopics { filter: filter.to_owned(), age_max_s: 1 };
            let good = HistoryTopics { filter: "a".to_owned(), age_max_s: 1 };
            let history = History { topics: vec![good, topics], ..History::default() };
            topic_ages(&history).map(drop).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(read("debug/+/#"), Ok(()));
        for filter in [
            "",
            "a/#/b",
            "a+",
            "$queue/jobs",
            "$share/g/a",
            "$replay/earliest/a",
            "$SYS/#",
            "$dlq/a",
        ] {
            let error = read(filter).unwrap_err();
            assert!(error.starts_with(&format!("history.topics.1.filter '{filter}'")), "{error}");
        }
    }

    fn read_filters(filters: &str) -> Result<Vec<String>, String> {
        let history = History { filters: filters.to_owned(), ..History::default() };
        let text = |filter: &Filter| filter.as_str().to_owned();
        match super::filters(&history) {
            Ok(filters) => Ok(filters.iter().map(text).collect()),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    #[test]
    fn filters_are_read_with_commas_between() {
        assert_eq!(read_filters(""), Ok(vec![]));
        let expected = ["sensors/+/temp", "#", "$vhost/plant/#"].map(str::to_owned);
        assert_eq!(read_filters(" sensors/+/temp, #,$vhost/plant/#,"), Ok(expected.to_vec()));
        assert_eq!(read_filters(&vec!["a"; 64].join(",")).map(|filters| filters.len()), Ok(64));
    }

    #[test]
    fn one_that_makes_no_sense_is_refused_with_its_place_and_the_reason() {
        let expected = [
            ("ok/#, a/#/b", "history.filters: 'a/#/b': '+' and '#' must stand alone"),
            ("$queue/jobs", "history.filters: '$queue/jobs': only ordinary topics have a history"),
            ("$SYS/#", "history.filters: '$SYS/#': only ordinary topics have a history"),
            ("$share/g/a", "history.filters: '$share/g/a': only ordinary topics have a history"),
            ("$dlq/jobs", "history.filters: '$dlq/jobs': only ordinary topics have a history"),
        ];
        for (filters, message) in expected {
            let error = read_filters(filters).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
        let error = read_filters(&vec!["a"; 65].join(",")).unwrap_err();
        assert_eq!(error, "history.filters: 65 filters are more than 64; write wider ones");
    }
}
